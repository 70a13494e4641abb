"""Scores of confusion matrices, many at once: a bootstrap sums thousands anew.

A metric is named as in ``result.json``: ``miou``, ``pixel_accuracy``,
``class_accuracy``, ``dice``, ``fwiou``; or ``iou(pole, car)``, the mean IoU of the
classes named. Their definitions are those of :func:`segjax.metrics.summarize`.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray], np.ndarray]
"""float64[..., 3, K] of :func:`reduce` -> float64[...]"""


def reduce(counts: np.ndarray) -> np.ndarray:
    """Confusion matrices int[..., K, K] -> float64[..., 3, K]: hits, truth, guesses.

    That is all that a metric needs, and sums of it are those of the matrices.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    parts = hits, counts.sum(-1), counts.sum(-2)
    return np.stack(parts, -2).astype(np.float64)


def _mean(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Mean over classes of part / whole, without those whose whole is 0."""
    there = whole > 0
    ratio = np.divide(part, whole, out=np.zeros_like(whole), where=there)
    return ratio.sum(-1) / np.maximum(there.sum(-1), 1)


def _iou(parts: np.ndarray) -> np.ndarray:
    hits, truth, guesses = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    return _mean(hits, truth + guesses - hits)


def _dice(parts: np.ndarray) -> np.ndarray:
    return _mean(2 * parts[..., 0, :], parts[..., 1, :] + parts[..., 2, :])


def _class_accuracy(parts: np.ndarray) -> np.ndarray:
    return _mean(parts[..., 0, :], parts[..., 1, :])


def _pixel_accuracy(parts: np.ndarray) -> np.ndarray:
    return parts[..., 0, :].sum(-1) / np.maximum(parts[..., 1, :].sum(-1), 1)


def _fwiou(parts: np.ndarray) -> np.ndarray:
    hits, truth, guesses = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    union = truth + guesses - hits
    iou = np.divide(hits, union, out=np.zeros_like(union), where=union > 0)
    return (truth * iou).sum(-1) / np.maximum(truth.sum(-1), 1)


METRICS: dict[str, Metric] = {
    "miou": _iou,
    "pixel_accuracy": _pixel_accuracy,
    "class_accuracy": _class_accuracy,
    "dice": _dice,
    "fwiou": _fwiou,
}
TITLES = {"miou": "mIoU", "dice": "Dice", "fwiou": "frequency-weighted IoU"}


def title(name: str) -> str:
    """As a reader knows it: 'iou(pole, car)' -> 'IoU of pole, car'."""
    if name in METRICS:
        return TITLES.get(name, name.replace("_", " "))
    return name.replace("iou(", "IoU of ").replace("_", " ").removesuffix(")")


def metric(name: str, classes: Sequence[str] | None = None) -> Metric:
    """The metric of that name; ``classes`` None: check the form of the name only.

    Raises:
      ValueError: no such metric, or it names a class that the data has not.
    """
    if name in METRICS:
        return METRICS[name]
    form = re.fullmatch(r"iou\((\w+(?:, *\w+)*)\)", name)
    if form is None:
        raise ValueError(
            f"{name!r} is no metric; write one of {', '.join(METRICS)} or "
            "iou(CLASS, CLASS)"
        )
    wanted = [word.strip() for word in form[1].split(",")]
    if classes is None:
        return _iou
    unknown = [word for word in wanted if word not in classes]
    if unknown:
        raise ValueError(
            f"{name!r}: the data has no class {', '.join(unknown)}; it has "
            f"{', '.join(classes)}"
        )
    columns = [list(classes).index(word) for word in wanted]
    return lambda parts: _iou(parts[..., columns])
