"""Label maps with regions of every size, and slow counts of them."""

import numpy as np
from scipy import ndimage

from segjax.batch import IGNORE

K = 4


def maps(seed, shape=(26, 33)):
    """(truth, prediction) uint8[h, w]: blobs and specks, some of the truth ignored."""
    rng = np.random.default_rng(seed)

    def blobs():
        size = shape[0] // 5 + 1, shape[1] // 6 + 1
        coarse = rng.integers(0, K - rng.integers(0, 2), size)
        return coarse.repeat(5, 0).repeat(6, 1)[: shape[0], : shape[1]]

    truth = blobs()
    prediction = np.where(rng.random(shape) < 0.6, np.roll(truth, 2, 1), blobs())
    truth = np.where(rng.random(shape) < 0.05, rng.integers(0, K, shape), truth)
    hole = ndimage.maximum_filter(rng.random(shape) > 0.99, 5)
    truth = np.where(hole, IGNORE, truth)
    return truth.astype(np.uint8), prediction.astype(np.uint8)


def slow_band(mask, width):
    """As boundary_iou_api's mask_to_boundary: what erosions take off."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width)


def slow_contours(label, class_id):
    """bool[h, w] by loops over the four neighbours."""
    found = np.zeros(label.shape, bool)
    h, w = label.shape
    for y in range(h):
        for x in range(w):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if label[y, x] == class_id and 0 <= v < h and 0 <= u < w:
                    found[y, x] |= label[v, u] not in (class_id, IGNORE)
    return found


def slow_regions(mask):
    """Lists of the pixels of 8-connected regions, in reading order, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    for seed in sorted(left):
        if seed not in left:
            continue
        left.remove(seed)
        region, front = [seed], [seed]
        while front:
            y, x = front.pop()
            for v in (y - 1, y, y + 1):
                for u in (x - 1, x, x + 1):
                    if (v, u) in left:
                        left.remove((v, u))
                        region.append((v, u))
                        front.append((v, u))
        regions.append(region)
    return regions
