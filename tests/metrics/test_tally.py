"""The sums of a split: additive, and each metric the mean that its page says."""

import json

import numpy as np
import pytest

from segjax.batch import IGNORE
from segjax.metrics import Tally, boundary, calibration_rows
from tests.metrics.oracles import K, maps, slow_band

NAMES, COUNT = tuple("abcd"), 7
IDS = [f"i{n}" for n in range(COUNT)]


def counted(indices):
    tally = Tally(K, COUNT)
    for index in indices:
        truth, prediction = maps(index)
        tally.add_image(index, truth, prediction)
        hot = np.eye(K, dtype=np.float32)[prediction][None] * 0.6 + 0.1
        tally.add_calibration(calibration_rows(hot, truth[None]))
    return tally


def test_parts_add_up():
    whole, parts = (
        counted(range(COUNT)),
        [counted(range(i, COUNT, 3)) for i in range(3)],
    )
    for key, want in whole.sums.items():
        got = sum(part.sums[key] for part in parts)
        np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=key)
        assert got.dtype == want.dtype in (np.int64, np.float64)


def test_every_metric_of_the_split():
    summary = counted(range(COUNT)).summarize(NAMES, IDS)
    json.dumps(summary, allow_nan=False)
    matrix, bands, contours, images = np.zeros((K, K), int), np.zeros((2, K)), [], []
    for index in range(COUNT):
        truth, prediction = maps(index)
        valid = truth != IGNORE
        own = np.array(
            [
                [((truth == t) & (prediction == p)).sum() for p in range(K)]
                for t in range(K)
            ]
        )
        matrix += own
        union = own.sum(0) + own.sum(1) - np.diag(own)
        images.append(np.mean([own[k, k] / union[k] for k in range(K) if union[k]]))
        assert own.sum() == valid.sum()
        kept = np.where(valid, prediction, IGNORE)
        for k in range(K):
            ours, theirs = (slow_band(x == k, 1) for x in (kept, truth))
            bands[:, k] += (ours & theirs).sum(), (ours | theirs).sum()
        contours.append(boundary.contour_scores(truth, prediction, K))
    assert summary["confusion"] == matrix.tolist()
    assert summary["miou"] == pytest.approx(
        np.mean(np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix)))
    )
    assert summary["boundary_iou"] == pytest.approx(np.mean(bands[0] / bands[1]))
    assert summary["boundary_f1"] == pytest.approx(np.mean([c.image for c in contours]))
    for k, name in enumerate(NAMES):
        values = [c.per_class[k] for c in contours if c.counted[k]]
        assert summary["boundary_f1_per_class"][name] == pytest.approx(np.mean(values))
    assert summary["image_miou"] == pytest.approx(np.mean(images))
    assert summary["worst_miou"] == pytest.approx(min(images))
    assert summary["worst_images"][0]["id"] == IDS[int(np.argmin(images))]
    accuracy = np.trace(matrix) / matrix.sum()
    # Every pixel says 0.7: one bin.
    assert summary["ece"] == pytest.approx(abs(accuracy - 0.7), rel=1e-5)
    assert summary["objects_by_size"]["large"] == 0
    assert summary["miou_by_size"]["large"] is None
    assert 0 < summary["recall_by_size"]["small"] < 1


def test_nothing_to_score_is_none():
    tally = Tally(2, 1)
    tally.add_image(0, np.full((4, 4), IGNORE, np.uint8), np.zeros((4, 4), np.uint8))
    summary = tally.summarize(("a", "b"), ["x"])
    json.dumps(summary, allow_nan=False)
    for key in ("miou", "boundary_iou", "boundary_f1", "ece", "worst_miou"):
        assert summary[key] is None
