"""Metrics of many confusion matrices against the one of the codebase."""

import numpy as np
import pytest

from experiments import scores
from segjax.metrics import summarize

NAMES = ("sky", "road", "car", "pole")


def matrices(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 50, (*shape, 4, 4))


@pytest.mark.parametrize("name", scores.METRICS)
def test_every_metric_is_that_of_a_run(name):
    counts = matrices(2, 3)
    counts[0, 0, 3], counts[0, 0, :, 3] = 0, 0  # one class is nowhere
    found = scores.metric(name, NAMES)(scores.reduce(counts))
    wanted = [[summarize(m, NAMES)[name] for m in row] for row in counts]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_the_mean_of_some_classes():
    counts = matrices()
    found = scores.metric("iou(pole, sky)", NAMES)(scores.reduce(counts))
    iou = summarize(counts, NAMES)["iou_per_class"]
    assert found == pytest.approx((iou["pole"] + iou["sky"]) / 2)


def test_titles_are_for_readers():
    assert scores.title("miou") == "mIoU"
    assert scores.title("class_accuracy") == "class accuracy"
    assert scores.title("iou(pole, sign_symbol)") == "IoU of pole, sign symbol"


@pytest.mark.parametrize(
    "name, message",
    [
        ("mIoU", "no metric; write one of miou, .* or iou"),
        ("iou(pole,)", "no metric"),
        ("iou(poel)", "no class poel; it has sky, road"),
    ],
)
def test_a_wrong_metric_is_told(name, message):
    with pytest.raises(ValueError, match=message):
        scores.metric(name, NAMES)
