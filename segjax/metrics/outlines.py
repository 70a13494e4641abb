"""Metrics that need the whole map of an image: of boundaries and of objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.metrics.boundary import band_counts, contour_scores
from segjax.metrics.confusion import mean_of, per_class, ratio
from segjax.metrics.objects import SIZES, object_counts


class Outlines:
    """The sums behind the metrics of boundaries and of objects, image by image.

    ``sums`` is the dict to keep them in, int64 and float64 arrays that add up over
    parts of a split; a new one by default.
    """

    def __init__(self, num_classes: int, sums: dict[str, np.ndarray] | None = None):
        k = num_classes
        self.sums = {} if sums is None else sums
        self.sums |= {
            "band": np.zeros((3, k), np.int64),
            "contour_f1": np.zeros(k),
            "contour_count": np.zeros(k, np.int64),
            "image_contour_f1": np.zeros(()),
            "image_contour_count": np.zeros((), np.int64),
            "objects": np.zeros((4, len(SIZES), k), np.int64),
        }

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count an image: uint8[h, w] both, IGNORE in the truth."""
        sums, k = self.sums, self.sums["band"].shape[1]
        sums["band"] += band_counts(truth, prediction, k)
        scores = contour_scores(truth, prediction, k)
        sums["contour_f1"] += scores.per_class
        sums["contour_count"] += scores.counted
        sums["image_contour_f1"] += scores.image
        sums["image_contour_count"] += scores.images
        sums["objects"] += object_counts(truth, prediction, k)

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """Boundary IoU and F1, IoU by size; None where there is nothing to score."""
        sums = self.sums
        both, theirs, ours = sums["band"]
        band = ratio(both, theirs + ours - both)
        contour = ratio(sums["contour_f1"], sums["contour_count"])
        images = int(sums["image_contour_count"])
        return {
            "boundary_iou": mean_of(band),
            "boundary_iou_per_class": per_class(names, band),
            "boundary_f1": float(sums["image_contour_f1"]) / images if images else None,
            "boundary_f1_per_class": per_class(names, contour),
            **self._by_size(names),
        }

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
