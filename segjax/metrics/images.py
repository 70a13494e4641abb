"""Scores of single images, and the worst of them.

A split's mIoU does not say how bad it can get: the mean over its worst images does
(worst-case metrics of Wang et al. 2023, https://arxiv.org/abs/2310.19252).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WORST = 0.05
"""The fraction of images that are the worst ones, rounded up."""


def summarize_images(
    miou: np.ndarray, accuracy: np.ndarray, ids: Sequence[str], worst: float = WORST
) -> dict[str, Any]:
    """``image_miou``, ``worst_miou``, ``worst_images`` and ``images``.

    Args:
      miou: float64[N], of each image alone: the mean IoU of the classes in its truth
        or its prediction; NaN where all is ignored: it is left out.
      accuracy: float64[N], the pixel accuracy.
      ids: the images' names.
      worst: the fraction of them that are the worst ones.

    Returns:
      ``image_miou``: the mean over images (not the split's mIoU). ``worst_miou``: that
      over the worst ``ceil(worst * N)``; ``worst_images``: their ``id`` and ``miou``,
      worst first (of equals the first in the split); ``images``: every image's
      ``id``, ``miou`` and ``pixel_accuracy``.
    """
    scored = np.flatnonzero(~np.isnan(miou))
    order = scored[np.argsort(miou[scored], kind="stable")]
    # 0.05 * 20 is 1.0000000000000002 in some multiples; that is not 2 images.
    lowest = order[: math.ceil(round(worst * len(order), 9))]

    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if values.size else None

    return {
        "image_miou": mean(miou[scored]),
        "worst_miou": mean(miou[lowest]),
        "worst_images": [{"id": ids[i], "miou": float(miou[i])} for i in lowest],
        "images": [
            {"id": name, "miou": number(m), "pixel_accuracy": number(a)}
            for name, m, a in zip(ids, miou, accuracy, strict=True)
        ],
    }
