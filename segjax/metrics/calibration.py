"""Whether probabilities mean what they say: ECE, NLL and Brier score of a split.

Guo et al. 2017, *On calibration of modern neural networks*
(https://arxiv.org/abs/1706.04599): pixels are sorted into :data:`BINS` equal bins
(a, b] of their largest probability; ECE is the mean of |accuracy - confidence| over
bins, weighted by their pixels. Over all pixels of the split at once, never per image.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BINS = 15
LEAST = float(np.finfo(np.float32).tiny)
"""A probability below this (1.2e-38) counts as this in the NLL, which stays finite."""


def calibration_rows(
    probabilities: jax.Array, label: jax.Array, bins: int = BINS
) -> dict[str, jax.Array]:
    """What calibration needs of a batch, summed over each row of pixels.

    ``probabilities`` f[B, H, W, K]; ``label`` int[B, H, W], ids that are no class
    (IGNORE) are dropped. Per bin of the largest probability: ``count`` and ``hits``
    i32[B, H, bins], ``confidence`` f32[B, H, bins]; ``nll`` and ``brier`` f32[B, H].
    Rows, because a float32 sum over a whole batch would lose digits: the host adds
    them up in float64, so that the sum does not depend on the batches.
    """
    classes = probabilities.shape[-1]
    valid = (label >= 0) & (label < classes)
    ids = jnp.arange(classes, dtype=jnp.int32)[None, None, None]
    is_truth = label.astype(jnp.int32)[..., None] == ids
    of_truth = jnp.sum(jnp.where(is_truth, probabilities, 0), -1)
    squares = jnp.sum(jnp.where(is_truth, probabilities - 1, probabilities) ** 2, -1)
    confidence = jnp.max(probabilities, -1)
    hit = jnp.argmax(probabilities, -1) == label.astype(jnp.int32)
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    inside = place[..., None] == jnp.arange(bins, dtype=jnp.int32)[None, None, None]
    inside &= valid[..., None]
    loss = -jnp.log(jnp.maximum(of_truth, LEAST))
    return {
        "count": jnp.sum(inside, 2, dtype=jnp.int32),
        "hits": jnp.sum(inside & hit[..., None], 2, dtype=jnp.int32),
        "confidence": jnp.sum(jnp.where(inside, confidence[..., None], 0), 2),
        "nll": jnp.sum(jnp.where(valid, loss, 0), 2),
        "brier": jnp.sum(jnp.where(valid, squares, 0), 2),
    }


def calibration_sums(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """:func:`calibration_rows` summed on the host, in int64 and float64.

    ``count``, ``hits``, ``confidence`` [bins]; ``nll``, ``brier`` [].
    """
    sums = {}
    for key, value in rows.items():
        value = np.asarray(value)
        wide = np.int64 if np.issubdtype(value.dtype, np.integer) else np.float64
        sums[key] = value.sum((0, 1), dtype=wide)
    return sums


def summarize_calibration(sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``ece``, ``nll`` (nats per pixel), ``brier``, and ``calibration``, the bins.

    The Brier score is the mean over pixels of the squared distance between the
    probabilities and the truth's one-hot vector: 0 to 2 (Brier 1950). A bin has
    ``low``, ``high``, ``pixels`` and, unless empty, ``accuracy`` and ``confidence``.
    None where no pixel counts.
    """
    count, pixels = sums["count"], int(sums["count"].sum())
    bins, gaps = [], 0.0
    for i, n in enumerate(count.tolist()):
        accuracy = confidence = None
        if n:
            accuracy, confidence = sums["hits"][i] / n, sums["confidence"][i] / n
            gaps += n * abs(accuracy - confidence)
            accuracy, confidence = float(accuracy), float(confidence)
        edges = {"low": i / len(count), "high": (i + 1) / len(count), "pixels": n}
        bins.append(edges | {"accuracy": accuracy, "confidence": confidence})
    return {
        "ece": float(gaps) / pixels if pixels else None,
        "nll": float(sums["nll"]) / pixels if pixels else None,
        "brier": float(sums["brier"]) / pixels if pixels else None,
        "calibration": bins,
    }
