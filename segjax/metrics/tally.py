"""All that is counted of a split: arrays that add up over images and processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.batch import IGNORE
from segjax.metrics.calibration import (
    BINS,
    calibration_sums,
    summarize_calibration,
)
from segjax.metrics.confusion import mean_of, ratio, summarize
from segjax.metrics.images import summarize_images
from segjax.metrics.outlines import Outlines


class Tally:
    """The sums behind every metric of a split of ``num_images`` images.

    ``sums`` is a dict of int64 and float64 arrays; those of two parts of a split, added
    up, are those of the whole.
    """

    def __init__(self, num_classes: int, num_images: int):
        k, n = num_classes, num_images
        self.sums: dict[str, np.ndarray] = {
            "confusion": np.zeros((k, k), np.int64),
            "image_miou": np.zeros(n),
            "image_hits": np.zeros(n, np.int64),
            "image_pixels": np.zeros(n, np.int64),
            "count": np.zeros(BINS, np.int64),
            "hits": np.zeros(BINS, np.int64),
            "confidence": np.zeros(BINS),
            "nll": np.zeros(()),
            "brier": np.zeros(()),
        }
        self._outlines = Outlines(k, self.sums)

    def add_image(self, index: int, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count image number ``index``: uint8[h, w] both, IGNORE in the truth."""
        sums, k = self.sums, self.sums["band"].shape[1]
        valid = truth != IGNORE
        cell = truth[valid].astype(np.int64) * k + prediction[valid]
        matrix = np.bincount(cell, minlength=k * k).reshape(k, k)
        sums["confusion"] += matrix
        self._outlines.add(truth, prediction)
        hit = np.diagonal(matrix)
        mean = mean_of(ratio(hit, matrix.sum(0) + matrix.sum(1) - hit))
        sums["image_miou"][index] = np.nan if mean is None else mean
        sums["image_hits"][index] = hit.sum()
        sums["image_pixels"][index] = matrix.sum()

    def add_calibration(self, rows: Mapping[str, Any]) -> None:
        """Add a batch's :func:`segjax.metrics.calibration.calibration_rows`."""
        for key, value in calibration_sums(rows).items():
            self.sums[key] += value

    def summarize(self, names: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
        """Every metric, as plain JSON values; None where there is nothing to score.

        ``names`` of the classes, ``ids`` of the images.
        """
        sums = self.sums
        summary = summarize(sums["confusion"], names)
        summary |= self._outlines.summarize(names)
        summary |= summarize_calibration(sums)
        accuracy = ratio(sums["image_hits"], sums["image_pixels"])
        summary |= summarize_images(sums["image_miou"], accuracy, ids)
        return summary | {"confusion": sums["confusion"].tolist()}
