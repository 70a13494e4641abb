"""The confusion matrix of a split, and every metric that it gives.

Each batch gives int32[K, K] on the device (counted exactly, whatever the batch, padding
or device count); the host adds them in int64. A class absent from both truth and
prediction has no IoU: it is left out of the means and named.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.scores import Scores, packed_confusion_matrix, predictions


def _by_counting(cell: jax.Array, num_classes: int) -> jax.Array:
    """int32[K * K] by scatter-adding ones; cell K * K collects what is dropped."""
    cells = num_classes * num_classes
    counts = jnp.zeros(cells + 1, jnp.int32).at[cell.reshape(-1)].add(1)
    return counts[:cells]


def _by_products(truth, prediction, valid, num_classes: int) -> jax.Array:
    """int32[K, K] as a product of one-hot int8 matrices: TPUs are slow at scatters."""
    ids = jnp.arange(num_classes, dtype=jnp.int32)
    hot = (truth[..., None] == ids[None, None, None]) & valid[..., None]
    guess = prediction[..., None] == ids[None, None, None]
    return jnp.einsum(
        "bhwt,bhwp->tp",
        hot.astype(jnp.int8),
        guess.astype(jnp.int8),
        preferred_element_type=jnp.int32,
    )


def confusion_matrix(
    prediction: jax.Array,
    label: jax.Array,
    num_classes: int,
    platform: str | None = None,
) -> jax.Array:
    """Count pixels: int32[K, K], rows the truth, columns the prediction.

    ``prediction`` int[B, H, W] holds ids 0 to K-1; ``label`` int or uint8[B, H, W] as
    well, other ids (IGNORE) are dropped. Exact for fewer than 2**31 pixels per call.
    """
    truth, prediction = label.astype(jnp.int32), prediction.astype(jnp.int32)
    valid = (truth >= 0) & (truth < num_classes)
    if platform == "tpu":
        return _by_products(truth, prediction, valid, num_classes)
    cell = jnp.where(valid, truth * num_classes + prediction, num_classes * num_classes)
    return _by_counting(cell, num_classes).reshape(num_classes, num_classes)


def confusion_of_scores(
    scores: Scores,
    label: jax.Array,
    num_classes: int,
    platform: str | None = None,
    predicted: jax.Array | None = None,
) -> jax.Array:
    """:func:`confusion_matrix` of what a model's unfinished scores predict.

    ``predicted`` int32[B, H, W]: their predictions where they are known already.
    """
    if scores.rule.packed is not None:
        return packed_confusion_matrix(scores, label)
    if predicted is None:
        predicted = predictions(scores)
    return confusion_matrix(predicted, label, num_classes, platform)


class Confusion:
    """The confusion matrix of a split on the host: int64[K, K]."""

    def __init__(self, num_classes: int):
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def add(self, matrix: Any) -> None:
        """Add a batch's int[K, K] (a device array is fetched)."""
        matrix = np.asarray(matrix)
        if matrix.shape != self.matrix.shape:
            raise ValueError(
                f"a confusion matrix of shape {matrix.shape} cannot be added to one of "
                f"shape {self.matrix.shape}: use the same number of classes"
            )
        self.matrix += matrix.astype(np.int64)

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """:func:`summarize` of the sum so far."""
        return summarize(self.matrix, names)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole in float64, NaN where whole is 0."""
    return np.divide(
        part, whole, out=np.full(part.shape, np.nan), where=whole > 0, dtype=np.float64
    )


def mean_of(values: np.ndarray) -> float | None:
    """The mean without NaNs; None of nothing (NaN is not JSON)."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def per_class(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """Name -> value; None for NaN."""
    pairs = zip(names, values, strict=True)
    return {name: None if np.isnan(v) else float(v) for name, v in pairs}


def summarize(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Every metric of a confusion matrix int64[K, K] (rows: truth).

    With TP, truth T and prediction P counted per class: IoU = TP / (T + P - TP),
    Dice = 2 TP / (T + P), accuracy = TP / T. ``miou``, ``dice`` and ``class_accuracy``
    are means over the classes that have a value; ``fwiou`` weighs the IoU by T / N
    (Long et al. 2015, https://arxiv.org/abs/1411.4038); ``pixel_accuracy`` is
    sum TP / N. What has no value (a class in neither truth nor prediction, anything
    when all pixels are ignored) is None. ``share_per_class`` is T / N.
    ``absent_classes`` names the classes that have
    no IoU; ``pixels`` is N.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(names), len(names)):
        raise ValueError(
            f"a confusion matrix of shape {matrix.shape} does not fit {len(names)} "
            "class names: give one name per class"
        )
    hit = np.diagonal(matrix)
    truth, guess, pixels = matrix.sum(1), matrix.sum(0), int(matrix.sum())
    iou = ratio(hit, truth + guess - hit)
    accuracy = ratio(hit, truth)
    dice = ratio(2 * hit, truth + guess)
    weighted = float(np.nansum(truth * iou)) / pixels if pixels else None

    return {
        "miou": mean_of(iou),
        "pixel_accuracy": int(hit.sum()) / pixels if pixels else None,
        "class_accuracy": mean_of(accuracy),
        "fwiou": weighted,
        "dice": mean_of(dice),
        "iou_per_class": per_class(names, iou),
        "accuracy_per_class": per_class(names, accuracy),
        "dice_per_class": per_class(names, dice),
        "share_per_class": per_class(names, ratio(truth, np.full_like(truth, pixels))),
        "absent_classes": [n for n, v in zip(names, iou, strict=True) if np.isnan(v)],
        "pixels": pixels,
    }
