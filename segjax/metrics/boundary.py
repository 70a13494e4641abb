"""How well contours are met: boundary IoU and SegNet's boundary F1.

Both tolerances are fractions of the image's diagonal. Pixels that the truth ignores are
taken out of the prediction as well; nothing in them counts.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from segjax.batch import IGNORE

DILATION = 0.02
"""Of boundary IoU: how wide its band is, as a fraction of the diagonal."""
TOLERANCE = 0.0075
"""Of the boundary F1: how far a contour may be off, as a fraction of the diagonal."""


def band_width(shape: tuple[int, int], dilation: float = DILATION) -> int:
    """Pixels, at least 1: the diagonal's fraction, rounded."""
    return max(1, round(dilation * math.hypot(*shape)))


def band(label: np.ndarray, width: int) -> np.ndarray:
    """bool[h, w]: pixels within ``width`` (chessboard) of another id or of the outside.

    For each class the pixels that ``width`` erosions by a 3x3 square would take off
    its mask, the image lying in a frame of zeros.
    """
    size, frame = 2 * width + 1, -1
    wide = label.astype(np.int16)
    low = ndimage.minimum_filter(wide, size, mode="constant", cval=frame)
    high = ndimage.maximum_filter(wide, size, mode="constant", cval=frame)
    return (low != wide) | (high != wide)


def band_counts(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int
) -> np.ndarray:
    """int64[3, K]: pixels of the bands' intersection, of the truth's, the prediction's.

    Boundary IoU of a class is that of the two masks' bands (Cheng et al. 2021,
    https://arxiv.org/abs/2103.16562), here of sums over the split's images.
    ``truth`` and ``prediction`` uint8[h, w].
    """
    width = band_width(truth.shape)
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    ours, theirs = band(prediction, width), band(truth, width)
    both = ours & theirs & (prediction == truth)
    picked = (truth[both], truth[theirs], prediction[ours])
    return np.stack(
        [np.bincount(ids, minlength=IGNORE + 1)[:num_classes] for ids in picked]
    ).astype(np.int64)


def contour(label: np.ndarray) -> np.ndarray:
    """bool[h, w]: pixels beside (4 neighbours) one of another class.

    Neither the image's end nor an ignored pixel makes a contour.
    """
    found = np.zeros(label.shape, bool)
    for axis in (0, 1):
        a = np.moveaxis(label, axis, 0)
        edge = (a[1:] != a[:-1]) & (a[1:] != IGNORE) & (a[:-1] != IGNORE)
        view = np.moveaxis(found, axis, 0)
        view[1:] |= edge
        view[:-1] |= edge
    return found


def _points(label: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> int[n, 2], the pixels of its contour."""
    places = np.argwhere(contour(label))
    ids = label[places[:, 0], places[:, 1]]
    return {int(c): places[ids == c] for c in np.unique(ids)}


def _share_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    """The share of our points with one of theirs at ``tolerance`` px or nearer."""
    # The tree searches strictly below its bound.
    bound = np.nextafter(tolerance, np.inf)
    distance, _ = KDTree(theirs).query(ours, distance_upper_bound=bound)
    return float(np.isfinite(distance).mean())


class ContourScores(NamedTuple):
    """Boundary F1 of one image.

    ``per_class`` float64[K] and ``counted`` int64[K], 1 where a class has a contour in
    the truth; ``image`` is their mean, 0 where ``images`` is 0: no class has one.
    """

    per_class: np.ndarray
    counted: np.ndarray
    image: float
    images: int


def contour_scores(
    truth: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    tolerance: float = TOLERANCE,
) -> ContourScores:
    """F1 of the contours' pixels, for each class with a contour in the truth.

    Precision is the share of the predicted contour's pixels with one of the true
    contour of that class no farther (Euclidean) than the tolerance, recall the other
    way round (Csurka et al. 2013, *What is a good evaluation measure for semantic
    segmentation?*, BMVC). SegNet (Badrinarayanan et al. 2017, TPAMI) takes the mean
    over the classes of an image, and of that over the images. A class that the
    prediction draws no contour of has 0. ``truth`` and ``prediction`` uint8[h, w].
    """
    radius = tolerance * math.hypot(*truth.shape)
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    theirs, ours = _points(truth), _points(prediction)
    scores, counted = np.zeros(num_classes), np.zeros(num_classes, np.int64)
    for class_id, points in theirs.items():
        counted[class_id] = 1
        if class_id in ours:
            precision = _share_near(ours[class_id], points, radius)
            recall = _share_near(points, ours[class_id], radius)
            if precision + recall:
                scores[class_id] = 2 * precision * recall / (precision + recall)
    images = int(counted.any())
    mean = float(scores.sum() / counted.sum()) if images else 0.0
    return ContourScores(scores, counted, mean, images)
