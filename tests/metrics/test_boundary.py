"""Boundary IoU against erosions, boundary F1 against distance transforms."""

import math

import numpy as np
import pytest
from scipy import ndimage

from segjax.batch import IGNORE
from segjax.metrics import boundary
from tests.metrics.oracles import K, maps, slow_band, slow_contours


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_band_is_what_erosions_take_off(seed, width):
    truth, _ = maps(seed)
    got = boundary.band(truth, width)
    want = np.zeros(truth.shape, bool)
    for class_id in (*range(K), IGNORE):
        want |= slow_band(truth == class_id, width)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("seed", range(6))
def test_band_counts_are_those_of_masks(seed):
    truth, prediction = maps(seed, (60, 83))  # diagonal 102.5: 2 pixels
    assert boundary.band_width(truth.shape) == 2
    prediction[0, :5] = K - 1
    got = boundary.band_counts(truth, prediction, K)
    kept = np.where(truth == IGNORE, IGNORE, prediction)
    for class_id in range(K):
        theirs = slow_band(truth == class_id, 2)
        ours = slow_band(kept == class_id, 2)
        want = [(ours & theirs).sum(), theirs.sum(), ours.sum()]
        assert got[:, class_id].tolist() == want


def test_the_band_is_two_percent_of_the_diagonal():
    assert boundary.band_width((360, 480)) == 12
    assert boundary.band_width((1024, 2048)) == round(0.02 * math.hypot(1024, 2048))
    assert boundary.band_width((3, 3)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_contour_scores_are_those_of_distance_transforms(seed):
    truth, prediction = maps(seed)
    tolerance = 0.05  # 2.1 pixels of the diagonal
    got = boundary.contour_scores(truth, prediction, K, tolerance)
    radius = tolerance * math.hypot(*truth.shape)
    kept = np.where(truth == IGNORE, IGNORE, prediction)
    scores = []
    for class_id in range(K):
        theirs, ours = (slow_contours(x, class_id) for x in (truth, kept))
        assert got.counted[class_id] == theirs.any()
        if not theirs.any():
            assert got.per_class[class_id] == 0
            continue
        f1 = 0.0
        if ours.any():
            near = [
                ndimage.distance_transform_edt(~x) <= radius for x in (theirs, ours)
            ]
            precision, recall = near[0][ours].mean(), near[1][theirs].mean()
            if precision + recall:
                f1 = 2 * precision * recall / (precision + recall)
        scores.append(f1)
        assert got.per_class[class_id] == pytest.approx(f1, rel=1e-12)
    assert got.images == 1 and got.image == pytest.approx(np.mean(scores), rel=1e-12)


def test_a_contour_within_the_tolerance_is_right_and_beyond_it_wrong():
    # 360 x 480: the diagonal is 600 px, the tolerance 4.5. A contour is two pixels
    # wide in all, one to each side: moved by 4 all its pixels are within 4.5.
    truth = np.zeros((360, 480), np.uint8)
    truth[:, 240:] = 1
    for shift, want in ((0, 1.0), (4, 1.0), (5, 0.0)):
        prediction = np.roll(truth, shift, 1)
        prediction[:, :shift] = 0
        scores = boundary.contour_scores(truth, prediction, 2)
        assert scores.image == want, shift
        assert scores.per_class.tolist() == [want, want]


def test_one_class_alone_has_no_contour():
    truth = np.zeros((9, 9), np.uint8)
    scores = boundary.contour_scores(truth, truth, 2)
    assert scores.images == 0 and not scores.counted.any()
    truth[4] = IGNORE
    assert boundary.contour_scores(truth, truth, 2).images == 0
