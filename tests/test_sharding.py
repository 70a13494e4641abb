"""What shardings and batches on devices promise, beyond test_step.py."""

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
