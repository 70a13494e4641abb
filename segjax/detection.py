"""How well boxes or masks were found: COCO's average precision, ILSVRC's localization.

Boxes are [x0, y0, x1, y1] in pixels, x1 and y1 exclusive.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's ten."""
_RECALLS = np.linspace(0.0, 1.0, 101)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64[n, m]: intersection over union of boxes [n, 4] and [m, 4]."""
    first = np.asarray(first, np.float64).reshape(-1, 1, 4)
    second = np.asarray(second, np.float64).reshape(1, -1, 4)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (first, second)]
    return both / (areas[0] + areas[1] - both)


class AveragePrecision:
    """Average precision over a data set, as COCO defines it (Lin et al. 2014).

    In every image each class's detections, the most certain first, take the true object
    of their class with the largest overlap that is free and overlaps enough. Precision
    over the whole set, made to fall with recall, is averaged over 101 recalls. The mean
    over classes leaves out those without a true object.

    Args:
      num_classes: K.
      thresholds: least intersection over union of a hit.
      max_detections: the most certain of one class and image that count.
    """

    def __init__(
        self,
        num_classes: int,
        thresholds: Sequence[float] = IOU_THRESHOLDS,
        max_detections: int = 100,
    ):
        self.thresholds = np.asarray(thresholds, np.float64)
        self.max_detections = max_detections
        self.truths = np.zeros(num_classes, np.int64)
        self._scores: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
        self._hits: list[list[np.ndarray]] = [[] for _ in range(num_classes)]

    def add(self, class_id: int, scores: np.ndarray, iou: np.ndarray) -> None:
        """One image's detections of a class.

        Args:
          class_id: which.
          scores: f[d], the certainty of each detection.
          iou: f[d, g], their overlaps with the image's g true objects of the class.
        """
        scores = np.asarray(scores, np.float64)
        order = np.argsort(-scores, kind="stable")[: self.max_detections]
        self.truths[class_id] += iou.shape[1]
        self._scores[class_id].append(scores[order])
        self._hits[class_id].append(_match(np.asarray(iou)[order], self.thresholds))

    def values(self) -> np.ndarray:
        """float64[K, T]: the average precisions; NaN without a true object."""
        found = np.full((len(self.truths), len(self.thresholds)), np.nan)
        for class_id, truths in enumerate(self.truths):
            if truths:
                scores = np.concatenate(self._scores[class_id])
                order = np.argsort(-scores, kind="stable")
                hits = np.concatenate(self._hits[class_id], 1)[:, order]
                found[class_id] = [_average(row, int(truths)) for row in hits]
        return found

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: the means, ``per_class`` and the numbers of objects.

        ``ap`` is the mean over the thresholds, ``ap50`` that of the first alone.
        """
        values = self.values()
        per_class: dict[str, Any] = {
            name: None if np.isnan(row).any() else {"ap": row.mean(), "ap50": row[0]}
            for name, row in zip(names, values, strict=True)
        }
        seen = values[self.truths > 0]
        return {
            "ap": float(seen.mean()) if len(seen) else None,
            "ap50": float(seen[:, 0].mean()) if len(seen) else None,
            "per_class": {
                name: value and {key: float(x) for key, x in value.items()}
                for name, value in per_class.items()
            },
            "objects": int(self.truths.sum()),
            "detections": sum(len(s) for rows in self._scores for s in rows),
        }


def _match(iou: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """bool[T, d]: which detections take a true object; rows by falling certainty."""
    count, truths = iou.shape
    hits = np.zeros((len(thresholds), count), bool)
    if not truths:
        return hits
    free = np.ones((len(thresholds), truths), bool)
    every = np.arange(len(thresholds))
    enough = np.minimum(thresholds, 1 - 1e-10)
    for i in range(count):
        left = np.where(free, iou[i][None], -1.0)
        # Of equal overlaps pycocotools takes the last.
        best = truths - 1 - np.argmax(left[:, ::-1], 1)
        hits[:, i] = left[every, best] >= enough
        free[every, best] &= ~hits[:, i]
    return hits


def _average(hits: np.ndarray, truths: int) -> float:
    """Mean precision over the 101 recalls; ``hits`` bool[d], the most certain first."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(right / truths, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[place].mean())


def localization_error(
    classes: np.ndarray,
    boxes: np.ndarray,
    truth: Sequence[int],
    truth_boxes: Sequence[np.ndarray],
    iou: float = 0.5,
) -> Mapping[str, float]:
    """ILSVRC's classification and localization errors (Russakovsky et al. 2015, 4.2).

    An image is right if one of its guesses has the class, and for localization a box,
    too, that overlaps one of the class's true boxes by ``iou`` or more.

    Args:
      classes: int[N, n], the guesses of each image, the most certain first.
      boxes: f[N, n, 4], the box of each guess.
      truth: the N true classes.
      truth_boxes: for each image the boxes [m, 4] of its class.
      iou: least intersection over union of a box that is right.

    Returns:
      ``top1_error``, ``topn_error``, ``top1_localization_error`` and
      ``topn_localization_error`` in [0, 1], n written as a number.

    Raises:
      ValueError: there is no image, or the arguments are not of one length.
    """
    classes = np.asarray(classes)
    lengths = {len(classes), len(boxes), len(truth), len(truth_boxes)}
    if len(lengths) != 1 or not len(classes):
        raise ValueError(
            f"classes, boxes, truth and truth_boxes have lengths {sorted(lengths)}; "
            "give one of each for every image"
        )
    named = classes == np.asarray(truth)[:, None]
    placed = [
        (box_iou(own, true) >= iou).any(1)
        for own, true in zip(boxes, truth_boxes, strict=True)
    ]
    both = named & np.stack(placed)
    found = {}
    for n in dict.fromkeys((1, classes.shape[1])):
        found[f"top{n}_error"] = 1 - float(named[:, :n].any(1).mean())
        found[f"top{n}_localization_error"] = 1 - float(both[:, :n].any(1).mean())
    return found
