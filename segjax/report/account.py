"""What a network's predictions of a split add up to, kept image by image.

Nothing here knows the network: truth, prediction and confidence come in as arrays, and
memory grows with the images by 3 K numbers and a small copy of each map, not by K * K.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from segjax.metrics import Confusion, Outlines

CALIBRATION_BINS = 15
DISTANCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
"""px, lower ends of the bins of :attr:`Account.by_distance`; the last has no end."""

PLANE = (24, 32)
"""Rows and columns of :attr:`Account.plane`."""

EXAMPLES = 4
"""Images kept per cell of the confusion matrix."""

SMALL = 480
"""px, the longer side of the copies that a page shows."""

TOLERANCE = 0.0075
"""Of the image's diagonal: errors so near to a true boundary are boundary errors
(the tolerance of SegNet's boundary F1, Badrinarayanan et al. 2017)."""


def boundary_distance(truth: np.ndarray) -> np.ndarray:
    """int[h, w]: each pixel's chessboard distance, in px, to the nearest boundary.

    1 is a pixel with one of another id (IGNORE is an id too) above, below, left or
    right of it. A map of one id has no boundary: every distance is h + w.
    """
    edge = np.zeros(truth.shape, bool)
    across = truth[1:] != truth[:-1]
    edge[1:] |= across
    edge[:-1] |= across
    along = truth[:, 1:] != truth[:, :-1]
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    if not edge.any():
        return np.full(truth.shape, sum(truth.shape))
    return np.asarray(ndimage.distance_transform_cdt(~edge, "chessboard")) + 1


def tolerance(shape: tuple[int, ...]) -> int:
    """How many px from a true boundary an error still is one of the boundary."""
    return max(1, round(TOLERANCE * float(np.hypot(shape[0], shape[1]))))


def small_size(size: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of the copy that a page shows: the longer side at most SMALL."""
    factor = min(1.0, SMALL / max(size[0], size[1]))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def shrink(array: np.ndarray) -> np.ndarray:
    """The nearest values of [h, w] at :func:`small_size`: ids stay ids."""
    height, width = small_size(array.shape)
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array[rows[:, None], columns[None]]


def pack(array: np.ndarray) -> bytes:
    """A small copy of ids or of a mask [h, w], compressed; zlib, row by row."""
    array = shrink(array)
    packed = np.packbits(array) if array.dtype == bool else array.astype(np.uint8)
    return zlib.compress(np.ascontiguousarray(packed).tobytes(), 9)


@dataclass(frozen=True)
class Truth:
    """What of an example's truth every network's account needs."""

    label: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, label: np.ndarray) -> "Truth":
        """Of the labels uint8[h, w]."""
        return cls(label, boundary_distance(label))

    def packed(self) -> tuple[bytes, bytes]:
        """The small map, and where errors would be those of a boundary."""
        near = self.distance <= tolerance(self.label.shape)
        return pack(self.label), pack(near)


@dataclass
class Account:
    """One network's predictions, added up image by image.

    ``hits``, ``truths`` and ``guesses`` are int64[N, K], pixels per image and class.
    ``top`` int64[K, K, EXAMPLES] and ``top_image`` tell in which images most pixels of
    the row's class were taken for the column's. ``calibration`` int64 and float64
    [3, BINS]: pixels, hits, sum of confidence. ``by_distance`` int64[2, D] and
    ``plane`` int64[2, rows, columns]: valid and wrong pixels, by distance to the
    nearest true boundary and by the place in the picture. ``near`` int64[2, 2]: the
    same within and beyond the boundary's tolerance.
    """

    num_classes: int
    maps: list[bytes] = field(default_factory=list)

    def __post_init__(self):
        classes = self.num_classes
        self.confusion = Confusion(classes)
        self.outlines = Outlines(classes)
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.top = np.zeros((classes, classes, EXAMPLES), np.int64)
        self.top_image = np.full((classes, classes, EXAMPLES), -1)
        self.calibration = np.zeros((3, CALIBRATION_BINS))
        self.by_distance = np.zeros((2, len(DISTANCES)), np.int64)
        self.plane = np.zeros((2, *PLANE), np.int64)
        self.near = np.zeros((2, 2), np.int64)

    @property
    def hits(self) -> np.ndarray:
        """int64[N, K]: true positives."""
        return np.array([row[0] for row in self._rows])

    @property
    def truths(self) -> np.ndarray:
        """int64[N, K]: pixels of the class in truth."""
        return np.array([row[1] for row in self._rows])

    @property
    def guesses(self) -> np.ndarray:
        """int64[N, K]: valid pixels predicted as the class."""
        return np.array([row[2] for row in self._rows])

    def add(self, truth: Truth, prediction: np.ndarray, confidence: np.ndarray) -> None:
        """The next image: its prediction uint8[h, w], confidence float32[h, w]."""
        label, classes = truth.label, self.num_classes
        valid = label < classes
        wrong = valid & (label != prediction)
        cell = label[valid].astype(np.int64) * classes + prediction[valid]
        matrix = np.bincount(cell, minlength=classes**2).reshape(classes, classes)
        self.confusion.add(matrix)
        self.outlines.add(label, prediction)
        self._rows.append((np.diagonal(matrix).copy(), matrix.sum(1), matrix.sum(0)))
        self._keep_examples(matrix, len(self._rows) - 1)
        self._calibrate(confidence[valid], ~wrong[valid])
        bins = np.digitize(truth.distance, DISTANCES) - 1
        near = truth.distance <= tolerance(label.shape)
        for row, mask in enumerate((valid, wrong)):
            self.by_distance[row] += np.bincount(bins[mask], minlength=len(DISTANCES))
            self.plane[row] += _on_plane(mask)
            self.near[row] += (np.sum(mask & near), np.sum(mask & ~near))
        self.maps.append(pack(prediction))

    def _keep_examples(self, matrix: np.ndarray, image: int) -> None:
        """Put the image where its count belongs among each cell's largest."""
        counts = np.concatenate([self.top, matrix[..., None]], -1)
        images = np.concatenate(
            [self.top_image, np.full((*matrix.shape, 1), image)], -1
        )
        # Stable: of equal counts the earlier image stays.
        order = np.argsort(-counts, -1, kind="stable")[..., :EXAMPLES]
        self.top = np.take_along_axis(counts, order, -1)
        self.top_image = np.take_along_axis(images, order, -1)

    def _calibrate(self, confidence: np.ndarray, hit: np.ndarray) -> None:
        """Count pixels by confidence; 1.0 belongs to the last bin."""
        bins = (confidence * CALIBRATION_BINS).astype(int)
        bins = np.minimum(bins, CALIBRATION_BINS - 1)
        for row, weights in enumerate((None, hit, confidence.astype(np.float64))):
            self.calibration[row] += np.bincount(bins, weights, CALIBRATION_BINS)

    def calibration_error(self) -> float | None:
        """ECE: the mean of |accuracy - confidence| over pixels, bin by bin.

        Guo et al. 2017, https://arxiv.org/abs/1706.04599. None without pixels.
        """
        pixels, hits, confidence = self.calibration
        if not pixels.sum():
            return None
        return float(np.abs(hits - confidence).sum() / pixels.sum())

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores of the split, as ``segjax evaluate`` has them."""
        return self.confusion.summarize(names) | self.outlines.summarize(names)

    def image_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """float64[N] each: mIoU of each image alone, and its pixel accuracy.

        The mean is over the classes that the image has in truth or prediction; NaN
        where nothing is labelled.
        """
        hits, truths, guesses = self.hits, self.truths, self.guesses
        union = truths + guesses - hits
        present = union > 0
        iou = np.divide(hits, union, out=np.zeros(hits.shape), where=present)
        return _ratio(iou.sum(1), present.sum(1)), _ratio(hits.sum(1), truths.sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole in float64, NaN where whole is 0."""
    empty = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=empty, where=whole > 0)


def _on_plane(mask: np.ndarray) -> np.ndarray:
    """int64[PLANE]: how often the mask [h, w] is set in each cell of the picture."""
    rows = np.arange(mask.shape[0]) * PLANE[0] // mask.shape[0]
    columns = np.arange(mask.shape[1]) * PLANE[1] // mask.shape[1]
    cell = rows[:, None] * PLANE[1] + columns[None]
    return np.bincount(cell[mask], minlength=PLANE[0] * PLANE[1]).reshape(PLANE)
