"""What shardings and batches on devices promise, beyond test_step.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from segjax import sharding


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_item_comes_when_the_next_is_made(count):
    events = []

    def make():
        for i in range(count):
            events.append(f"made {i}")
            yield i

    for item in sharding.one_behind(make()):
        events.append(f"taken {item}")
    wanted = {
        0: [],
        1: ["made 0", "taken 0"],
        3: ["made 0", "made 1", "taken 0", "made 2", "taken 1", "taken 2"],
    }
    assert events == wanted[count]


def devices(processes, each):
    """Made-up devices in the order of their processes."""
    found = range(processes * each)
    return np.array([SimpleNamespace(process_index=i // each, id=i) for i in found])


@pytest.mark.parametrize(
    "processes, each, spatial, wanted",
    [
        (2, 2, 1, [(0, 2, True), (1, 2, True)]),
        (2, 2, 2, [(0, 2, True), (1, 2, True)]),
        # An image's rows in two processes: both load it, and one counts it.
        (2, 2, 4, [(0, 1, True), (0, 1, False)]),
        (4, 1, 2, [(0, 2, True), (0, 2, False), (1, 2, True), (1, 2, False)]),
    ],
)
def test_processes_with_the_same_images_load_the_same(processes, each, spatial, wanted):
    placed = devices(processes, each).reshape(-1, 1, spatial)
    assert [sharding.share_of(p, placed) for p in range(processes)] == wanted


def test_images_split_unevenly_over_processes_are_refused():
    with pytest.raises(ValueError, match="mesh.spatial=3 splits images unevenly"):
        sharding.share_of(0, devices(3, 2).reshape(2, 1, 3))
