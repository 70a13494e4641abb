"""All that is counted of a split: arrays that add up over images and processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.batch import IGNORE
from segjax.metrics.boundary import band_counts, contour_scores
from segjax.metrics.calibration import (
    BINS,
    calibration_sums,
    summarize_calibration,
)
from segjax.metrics.confusion import mean_of, per_class, ratio, summarize
from segjax.metrics.images import summarize_images
from segjax.metrics.objects import SIZES, object_counts


class Tally:
    """The sums behind every metric of a split of ``num_images`` images.

    ``sums`` is a dict of int64 and float64 arrays; those of two parts of a split, added
    up, are those of the whole.
    """

    def __init__(self, num_classes: int, num_images: int):
        k, n = num_classes, num_images
        self.sums: dict[str, np.ndarray] = {
            "confusion": np.zeros((k, k), np.int64),
            "band": np.zeros((3, k), np.int64),
            "contour_f1": np.zeros(k),
            "contour_count": np.zeros(k, np.int64),
            "image_contour_f1": np.zeros(()),
            "image_contour_count": np.zeros((), np.int64),
            "objects": np.zeros((4, len(SIZES), k), np.int64),
            "image_miou": np.zeros(n),
            "image_hits": np.zeros(n, np.int64),
            "image_pixels": np.zeros(n, np.int64),
            "count": np.zeros(BINS, np.int64),
            "hits": np.zeros(BINS, np.int64),
            "confidence": np.zeros(BINS),
            "nll": np.zeros(()),
            "brier": np.zeros(()),
        }

    def add_image(self, index: int, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count image number ``index``: uint8[h, w] both, IGNORE in the truth."""
        sums, k = self.sums, self.sums["band"].shape[1]
        valid = truth != IGNORE
        cell = truth[valid].astype(np.int64) * k + prediction[valid]
        matrix = np.bincount(cell, minlength=k * k).reshape(k, k)
        sums["confusion"] += matrix
        sums["band"] += band_counts(truth, prediction, k)
        scores = contour_scores(truth, prediction, k)
        sums["contour_f1"] += scores.per_class
        sums["contour_count"] += scores.counted
        sums["image_contour_f1"] += scores.image
        sums["image_contour_count"] += scores.images
        sums["objects"] += object_counts(truth, prediction, k)
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
        both, theirs, ours = sums["band"]
        band = ratio(both, theirs + ours - both)
        contour = ratio(sums["contour_f1"], sums["contour_count"])
        images = int(sums["image_contour_count"])
        summary |= {
            "boundary_iou": mean_of(band),
            "boundary_iou_per_class": per_class(names, band),
            "boundary_f1": float(sums["image_contour_f1"]) / images if images else None,
            "boundary_f1_per_class": per_class(names, contour),
        }
        summary |= summarize_calibration(sums) | self._by_size(names)
        accuracy = ratio(sums["image_hits"], sums["image_pixels"])
        summary |= summarize_images(sums["image_miou"], accuracy, ids)
        return summary | {"confusion": sums["confusion"].tolist()}

    def _by_size(self, names: Sequence[str]) -> dict[str, Any]:
        """Of objects: mean IoU, IoU per class, recall and number, by size."""
        hits, unions, pixels, objects = self.sums["objects"]
        iou = ratio(hits, unions)
        sizes = [size for size, _ in SIZES]
        recall = ratio(hits.sum(1), pixels.sum(1))
        return {
            "miou_by_size": {s: mean_of(v) for s, v in zip(sizes, iou, strict=True)},
            "iou_by_size_per_class": {
                s: per_class(names, v) for s, v in zip(sizes, iou, strict=True)
            },
            "recall_by_size": per_class(sizes, recall),
            "objects_by_size": dict(zip(sizes, objects.sum(1).tolist(), strict=True)),
        }
