"""Regions of a label map against cases worked by hand and pycocotools."""

import json

import numpy as np
import pytest
from scipy import ndimage

from segjax import regions
from segjax.batch import IGNORE, LabelSpec
from tests.requirements import require_parity

SPEC = LabelSpec(("sky", "road", "car"), ((10, 20, 200), (90, 90, 90), (250, 0, 0)))


def scene():
    label = np.zeros((10, 12), np.uint8)
    label[1:4, 2:7] = 2  # 15 pixels
    label[6:8, 0:2] = 1  # 4, and a diagonal neighbour
    label[8, 2] = 1
    label[9, 11] = 2  # too small
    label[0, 0] = IGNORE
    confidence = np.full((10, 12), 0.1, np.float32)
    confidence[1:4, 2:7] = np.linspace(0.5, 0.9, 15).reshape(3, 5)
    return label, confidence


def test_regions_of_a_hand_worked_case():
    label, confidence = scene()
    found = regions.find(label, 3, confidence, min_area=2)
    assert [(f.class_id, f.box, f.area) for f in found] == [
        (0, (0, 0, 12, 10), 98),
        (2, (2, 1, 7, 4), 15),
        (1, (0, 6, 3, 9), 5),
    ]
    assert found[1].score == pytest.approx(0.7)
    assert found[2].mask.tolist() == [[True, True, False]] * 2 + [[False, False, True]]
    assert [f.score for f in regions.find(label, 3)] == [None]
    assert regions.find(np.full((3, 3), IGNORE, np.uint8), 3) == []
    told = regions.describe(found, SPEC, (10, 12))
    assert json.loads(json.dumps(told)) == told
    assert [t["class"] for t in told] == ["sky", "car", "road"]
    assert told[1] | {"mask": 0} == {
        **{"class": "car", "class_id": 2, "box": [2, 1, 7, 4], "area": 15},
        **{"score": found[1].score, "mask": 0},
    }
    car = np.zeros((10, 12), bool)
    car[1:4, 2:7] = True
    np.testing.assert_array_equal(regions.decode(told[1]["mask"]), car)


def test_min_area_and_connectivity_act():
    label, _ = scene()
    areas = {
        (area, near): sorted(
            f.area
            for f in regions.find(label, 3, min_area=area, connectivity=near)
            if f.class_id
        )
        for area in (1, 5, 15, 16)
        for near in (4, 8)
    }
    assert areas[1, 8] == [1, 5, 15] and areas[1, 4] == [1, 1, 4, 15]
    assert areas[5, 8] == [5, 15] and areas[5, 4] == [15]
    assert areas[15, 8] == [15] and areas[16, 8] == []
    with pytest.raises(ValueError, match="connectivity is 6; write 4 or 8"):
        regions.find(label, 3, connectivity=6)
    with pytest.raises(ValueError, match="min_area is 0 pixels"):
        regions.find(label, 3, min_area=0)


def blobs(seed: int, size=(41, 57), classes=4) -> np.ndarray:
    """uint8[h, w]: a random map of roundish regions."""
    noise = np.random.default_rng(seed).normal(size=(classes, *size))
    return ndimage.gaussian_filter(noise, (0, 2.5, 2.5)).argmax(0).astype(np.uint8)


def test_regions_are_the_map():
    label = blobs(0)
    seen = np.zeros(label.shape, int)
    for region in regions.find(label, 4, min_area=1):
        mask = regions.decode(regions.encode(region.mask, label.shape, region.box[:2]))
        assert mask.sum() == region.area and (label[mask] == region.class_id).all()
        rows, columns = np.nonzero(mask)
        want = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.box == want
        # As one region it has one component, and touches no other of its class.
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
        assert (label[ring] != region.class_id).all()
        seen += mask
    assert (seen == 1).all()


def test_a_mask_is_encoded_as_by_hand():
    # Down the columns 0 1 1 | 1 0 0: one zero, three ones, two zeros.
    mask = np.array([[0, 1], [1, 0], [1, 0]], bool)
    assert regions.encode(mask, (3, 2)) == {"size": [3, 2], "counts": "132"}
    # Runs of 0, 100, 1: 100 = 3 * 32 + 4 is 4 + 32 and 3, and "0" is 48.
    mask = np.array([[1]] * 100 + [[0]], bool)
    assert regions.encode(mask, (101, 1))["counts"] == "0T31"
    assert regions.encode(np.zeros((2, 3), bool), (2, 3))["counts"] == "6"


def test_mask_iou_is_that_of_whole_masks():
    maps = [blobs(seed) for seed in (1, 2)]
    found = [regions.find(label, 4, min_area=5) for label in maps]
    whole = [
        [regions.decode(regions.encode(f.mask, (41, 57), f.box[:2])) for f in each]
        for each in found
    ]
    want = [[(a & b).sum() / (a | b).sum() for b in whole[1]] for a in whole[0]]
    np.testing.assert_allclose(regions.mask_iou(*found), want, atol=1e-12)
    assert regions.mask_iou(found[0], []).shape == (len(found[0]), 0)


# pycocotools 2.0.11 itself uses what NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parity
def test_masks_are_what_pycocotools_writes():
    masks = require_parity("pycocotools.mask")
    random = np.random.default_rng(3)
    cases = [random.random((h, w)) < p for h, w in ((1, 1), (7, 5)) for p in (0.3, 0.8)]
    cases += [np.zeros((4, 6), bool), np.ones((4, 6), bool), np.eye(9, dtype=bool)]
    # Counts of several groups, that fall by more than one group can say, too.
    cases += [np.arange(40_000).reshape(200, 200) // n % 2 == 1 for n in (33, 7000)]
    cases.append(blobs(4, (301, 403)) == 1)
    for mask in cases:
        want = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        got = regions.encode(mask, mask.shape)
        assert got["counts"] == want["counts"].decode(), mask.shape
        assert got["size"] == want["size"]
        np.testing.assert_array_equal(masks.decode(got), mask)
        np.testing.assert_array_equal(regions.decode(got), mask)
    # A part of the map is encoded as the whole.
    whole = np.zeros((40, 50), np.uint8)
    whole[30:40, 45:50] = random.random((10, 5)) < 0.6
    got = regions.encode(whole[28:, 44:] > 0, (40, 50), (44, 28))
    assert got["counts"] == masks.encode(np.asfortranarray(whole))["counts"].decode()
