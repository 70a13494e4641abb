"""A line of the log: means by NumPy, and carried over bit for bit."""

import json

import numpy as np
import pytest

from segjax.log_line import LogLine, introduction
from segjax.tasks import Segmentation


def step_metrics(rng, skipped=0):
    return {
        "loss": np.float32("nan" if skipped else rng.normal()),
        "gradient_norm": np.float32(rng.normal()),
        "confusion": rng.integers(0, 9, (2, 2)).astype(np.int32),
        "skipped": np.int32(skipped),
    }


def test_means_and_counts_leave_out_what_was_skipped():
    rng = np.random.default_rng(0)
    taken, line = [step_metrics(rng) for _ in range(3)], LogLine()
    for metrics in (taken[0], step_metrics(rng, 1), step_metrics(rng, 2), *taken[1:]):
        line.add(metrics)
    found = line.scalars()
    assert found["skipped"] == 2
    assert found["loss"] == pytest.approx(np.mean([m["loss"] for m in taken]))
    norms = [m["gradient_norm"] for m in taken]
    assert found["gradient_norm"] == pytest.approx(np.mean(norms))
    expected = sum(m["confusion"].astype(np.int64) for m in taken)
    np.testing.assert_array_equal(line.counts["confusion"], expected)


def test_nothing_but_skipped_updates_has_no_means():
    line = LogLine()
    line.add(step_metrics(np.random.default_rng(0), 1))
    assert line.scalars() == {"loss": None, "gradient_norm": None, "skipped": 1}
    np.testing.assert_array_equal(line.counts["confusion"], np.zeros((2, 2)))
    assert Segmentation.scalars(line.counts, ("sky", "road")) == {"miou": None}


def test_counts_go_beyond_int32():
    metrics = step_metrics(np.random.default_rng(0))
    metrics["confusion"] = np.full((2, 2), 2**31 - 1, np.int32)
    line = LogLine()
    for _ in range(3):
        line.add(metrics)
    assert (line.counts["confusion"] == 3 * (2**31 - 1)).all()


def test_carried_over_as_json_it_goes_on_bit_for_bit():
    rng = np.random.default_rng(1)
    steps = [step_metrics(rng, skipped) for skipped in (0, 0, 1, 0, 0)]
    straight, first = LogLine(), LogLine()
    for metrics in steps:
        straight.add(metrics)
    for metrics in steps[:3]:
        first.add(metrics)
    kept = first.to_dict()
    text = json.dumps(kept)
    first.add(steps[3])
    assert json.dumps(kept) == text  # the run goes on while they are written
    second = LogLine.from_dict(json.loads(text))
    for metrics in steps[3:]:
        second.add(metrics)
    assert second.to_dict() == straight.to_dict()
    assert LogLine.from_dict({}).to_dict() == LogLine().to_dict()


def test_a_run_says_what_it_begins_with():
    sources = {"train": range(27), "val": range(3)}
    assert introduction(sources, ("road", "car")) == (
        "examples: 27 of train, 3 of val; 2 classes: road, car; compiling the train "
        "step"
    )
    many = [f"c{k}" for k in range(9)]
    assert "; 9 classes: c0, c1, c2, c3, c4, c5, c6, c7, ...;" in (
        introduction(sources, many)
    )
