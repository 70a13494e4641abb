"""IoU by size against flood fills, and a case worked by hand."""

import numpy as np
import pytest

from segjax.batch import IGNORE
from segjax.metrics import objects
from tests.metrics.oracles import K, maps, slow_regions

BOUNDS = (("small", 0), ("medium", 6), ("large", 40))


def slow_counts(truth, prediction):
    counts = np.zeros((4, 3, K), int)
    guess = np.where(truth == IGNORE, IGNORE, prediction)

    def size_bin(area):
        return sum(area >= least for _, least in BOUNDS) - 1

    for k in range(K):
        found = slow_regions(truth == k)
        home = {pixel: i for i, region in enumerate(found) for pixel in region}
        for region in found:
            b = size_bin(len(region))
            hits = sum(guess[pixel] == k for pixel in region)
            counts[:, b, k] += [hits, len(region), len(region), 1]
        for region in slow_regions(guess == k):
            shares = [sum(home.get(p) == i for p in region) for i in range(len(found))]
            false = sum(p not in home for p in region)
            b = size_bin(len(region))
            if any(shares):
                b = size_bin(len(found[shares.index(max(shares))]))
            counts[1, b, k] += false
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_flood_fills(seed, monkeypatch):
    monkeypatch.setattr(objects, "SIZES", BOUNDS)
    truth, prediction = maps(seed)
    got = objects.object_counts(truth, prediction, K)
    np.testing.assert_array_equal(got, slow_counts(truth, prediction))
    # Over the bins: the classes' own intersections and unions.
    for k in range(K):
        t, p = truth == k, (prediction == k) & (truth != IGNORE)
        assert got[:3, :, k].sum(1).tolist() == [(t & p).sum(), (t | p).sum(), t.sum()]


def test_a_hand_worked_case():
    truth = np.zeros((200, 200), np.uint8)
    truth[:10, :10] = 1  # small: 100 px
    truth[50:90, 50:90] = 1  # medium: 1600 px
    truth[100:200, 100:200] = 1  # large: 10000 px
    prediction = np.zeros_like(truth)
    prediction[:10, :5] = 1  # half of the small one
    prediction[50:90, 50:100] = 1  # all of the medium one and 400 px beside it
    prediction[10:20, 180:190] = 1  # 100 px that meet nothing: small
    counts = objects.object_counts(truth, prediction, 2)[:, :, 1]
    assert counts.tolist() == [
        [50, 1600, 0],
        [100 + 100, 1600 + 400, 10000],
        [100, 1600, 10000],
        [1, 1, 1],
    ]


def test_of_equal_shares_the_first_object_is_taken(monkeypatch):
    monkeypatch.setattr(objects, "SIZES", BOUNDS)
    truth = np.zeros((9, 9), np.uint8)
    truth[0, 0] = 1  # small, shares 1 pixel
    truth[2:6, 0:6] = 1  # medium
    prediction = np.zeros_like(truth)
    prediction[0:3, 0] = 1
    counts = objects.object_counts(truth, prediction, 2)[:, :, 1]
    assert counts[1].tolist() == [1 + 1, 24, 0]
