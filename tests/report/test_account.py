"""Counts of a report against plain loops over pixels."""

import itertools
import zlib

import numpy as np
import pytest

from segjax.batch import IGNORE
from segjax.metrics import summarize
from segjax.report import compare
from segjax.report.account import (
    CALIBRATION_BINS,
    DISTANCES,
    EXAMPLES,
    PLANE,
    Account,
    Truth,
    boundary_distance,
    pack,
    shrink,
    small_size,
    tolerance,
)

CLASSES, IMAGES = 4, 9
NAMES = [f"c{k}" for k in range(CLASSES)]


def scene(seed: int, wrong: float = 0.4):
    """A truth of a few rectangles, a prediction of it with errors, a confidence."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(9, 40, 2)
    truth = np.full((height, width), rng.integers(CLASSES - 1), np.uint8)
    for _ in range(3):
        y, x = rng.integers(0, height), rng.integers(0, width)
        truth[y : y + 7, x : x + 9] = rng.choice([0, 1, 2, IGNORE])
    mistaken = rng.random(truth.shape) < wrong
    prediction = np.where(truth == IGNORE, 0, truth)
    prediction = np.where(mistaken, rng.integers(0, CLASSES, truth.shape), prediction)
    confidence = rng.uniform(0.25, 1, truth.shape).astype(np.float32)
    confidence[0, 0] = 1.0
    return truth, prediction.astype(np.uint8), confidence


def matrix_of(truth, prediction) -> np.ndarray:
    found = np.zeros((CLASSES, CLASSES), int)
    for t, p in zip(truth.flat, prediction.flat, strict=True):
        if t != IGNORE:
            found[t, p] += 1
    return found


def account_of(scenes) -> Account:
    account = Account(CLASSES)
    for truth, prediction, confidence in scenes:
        account.add(Truth.of(truth), prediction, confidence)
    return account


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(IMAGES)]


@pytest.fixture(scope="module")
def account(scenes):
    return account_of(scenes)


def distances_by_hand(truth: np.ndarray) -> np.ndarray:
    """Chessboard distance to the nearest pixel with another one beside it, plus 1."""
    height, width = truth.shape
    edges = [
        (y, x)
        for y, x in itertools.product(range(height), range(width))
        for b, a in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))
        if 0 <= b < height and 0 <= a < width and truth[b, a] != truth[y, x]
    ]
    found = np.full(truth.shape, height + width)
    for y, x in itertools.product(range(height), range(width)):
        if edges:
            found[y, x] = 1 + min(max(abs(y - b), abs(x - a)) for b, a in edges)
    return found


def test_distances_to_a_boundary():
    line = np.array([[0, 0, 0, 1, 1, 255, 255]], np.uint8)
    np.testing.assert_array_equal(boundary_distance(line), [[3, 2, 1, 1, 1, 1, 2]])
    for truth, *_ in (scene(1), scene(5)):
        np.testing.assert_array_equal(
            boundary_distance(truth), distances_by_hand(truth)
        )
    assert (boundary_distance(np.zeros((3, 5), np.uint8)) == 8).all()


def test_counts_per_image_and_of_all(scenes, account):
    matrices = [matrix_of(truth, guess) for truth, guess, _ in scenes]
    np.testing.assert_array_equal(account.confusion.matrix, sum(matrices))
    np.testing.assert_array_equal(account.hits, [m.diagonal() for m in matrices])
    np.testing.assert_array_equal(account.truths, [m.sum(1) for m in matrices])
    np.testing.assert_array_equal(account.guesses, [m.sum(0) for m in matrices])
    scores, accuracy = account.image_scores()
    for matrix, score, right in zip(matrices, scores, accuracy, strict=True):
        wanted = summarize(matrix, NAMES)
        assert score == pytest.approx(wanted["miou"], abs=1e-12)
        assert right == pytest.approx(wanted["pixel_accuracy"], abs=1e-12)


def test_an_image_without_labels_has_no_score():
    blank = np.full((4, 4), IGNORE, np.uint8)
    account = account_of([(blank, blank * 0, np.ones((4, 4), np.float32))])
    assert np.isnan(account.image_scores()).all()
    assert account.calibration_error() is None
    assert compare.intervals(account)[-1].side == 0


def test_the_images_of_each_confusion(scenes, account):
    for a, b in itertools.permutations(range(CLASSES), 2):
        counts = [matrix_of(truth, guess)[a, b] for truth, guess, _ in scenes]
        order = sorted(range(IMAGES), key=lambda i: (-counts[i], i))[:EXAMPLES]
        kept = [i for i in order if counts[i]]
        found = account.top_image[a, b][account.top[a, b] > 0]
        assert found.tolist() == kept
        assert account.top[a, b][: len(kept)].tolist() == [counts[i] for i in kept]


def test_calibration(scenes, account):
    bins = [[] for _ in range(CALIBRATION_BINS)]
    for truth, guess, confidence in scenes:
        flat = zip(truth.flat, guess.flat, confidence.flat, strict=True)
        for t, p, c in flat:
            if t != IGNORE:
                place = min(int(c * CALIBRATION_BINS), CALIBRATION_BINS - 1)
                bins[place].append((t == p, float(c)))
    total = sum(map(len, bins))
    wanted = sum(abs(sum(h for h, _ in b) - sum(c for _, c in b)) for b in bins if b)
    assert account.calibration[0].tolist() == [len(b) for b in bins]
    assert account.calibration_error() == pytest.approx(wanted / total, rel=1e-6)


def test_errors_by_distance_and_by_place(scenes, account):
    by_distance = np.zeros((2, len(DISTANCES)), int)
    plane, near = np.zeros((2, *PLANE), int), np.zeros((2, 2), int)
    for truth, guess, _ in scenes:
        distance, (height, width) = distances_by_hand(truth), truth.shape
        limit = max(1, round(0.0075 * (height**2 + width**2) ** 0.5))
        for y, x in itertools.product(range(height), range(width)):
            if truth[y, x] == IGNORE:
                continue
            d = distance[y, x]
            place = max(i for i, low in enumerate(DISTANCES) if low <= d)
            for row in range(1 + (truth[y, x] != guess[y, x])):
                by_distance[row, place] += 1
                plane[row, y * PLANE[0] // height, x * PLANE[1] // width] += 1
                near[row, int(d > limit)] += 1
    np.testing.assert_array_equal(account.by_distance, by_distance)
    np.testing.assert_array_equal(account.plane, plane)
    np.testing.assert_array_equal(account.near, near)
    assert tolerance((360, 480)) == 4 and tolerance((32, 32)) == 1


def test_small_copies_keep_ids_and_fit():
    label = np.arange(40, dtype=np.uint8).repeat(30)[None].repeat(700, 0)
    assert small_size(label.shape) == (280, 480) == shrink(label).shape
    assert set(np.unique(shrink(label))) == set(range(40))
    assert shrink(label)[0, 0] == 0 and shrink(label)[0, -1] == 39
    assert zlib.decompress(pack(label)) == shrink(label).tobytes()
    mask = np.array([[True, False, False, True, True], [False] * 5])
    assert zlib.decompress(pack(mask)) == bytes([0b10011000, 0])


def resummed(scenes, weights) -> np.ndarray:
    """IoUs and mIoU of confusion matrices added up as often as the weights say."""
    matrices = np.array([matrix_of(truth, guess) for truth, guess, _ in scenes])
    found = []
    for row in weights.astype(int):
        summary = summarize((matrices * row[:, None, None]).sum(0), NAMES)
        values = [*summary["iou_per_class"].values(), summary["miou"]]
        found.append([np.nan if v is None else v for v in values])
    return np.array(found)


def test_the_bootstrap_adds_up_whole_confusion_matrices(scenes, account, monkeypatch):
    monkeypatch.setattr(compare, "DRAWS", 400)
    others = [scene(seed, wrong=0.55) for seed in range(IMAGES)]
    weights = np.concatenate(list(compare.draws(IMAGES)))
    assert weights.shape == (400, IMAGES) and (weights.sum(1) == IMAGES).all()
    ours, theirs = resummed(scenes, weights), resummed(others, weights)
    for found, drawn in (
        (compare.intervals(account), ours),
        (compare.intervals(account, account_of(others)), ours - theirs),
    ):
        low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
        np.testing.assert_allclose([i.low for i in found], low, atol=1e-12)
        np.testing.assert_allclose([i.high for i in found], high, atol=1e-12)
    whole = resummed(scenes, np.ones((1, IMAGES)))[0]
    values = [i.value for i in compare.intervals(account)]
    np.testing.assert_allclose(values, whole, atol=1e-12)


def test_a_network_is_not_told_from_itself_but_from_a_worse_one(scenes, account):
    same = compare.intervals(account, account)
    assert all((i.value, i.low, i.high, i.side) == (0, 0, 0, 0) for i in same)
    worse = account_of([scene(seed, wrong=0.9) for seed in range(IMAGES)])
    assert compare.intervals(account, worse)[-1].side == 1
    assert compare.intervals(worse, account)[-1].side == -1
