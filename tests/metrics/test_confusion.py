"""Metrics against counts and formulas in float64, class by class."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segjax import metrics
from segjax.batch import IGNORE

K = 5
NAMES = tuple("abcde")
count = {
    platform: jax.jit(
        lambda p, t, platform=platform: metrics.confusion_matrix(p, t, K, platform)
    )
    for platform in (None, "cpu", "tpu")
}


def slow_confusion(prediction, label):
    matrix = [[0] * K for _ in range(K)]
    for guess, truth in zip(prediction.flat, label.flat, strict=True):
        if truth != IGNORE:
            matrix[truth][guess] += 1
    return np.array(matrix)


def slow_summary(matrix):
    """Every metric by Python loops over classes."""
    matrix = [[int(v) for v in row] for row in matrix]
    total = sum(map(sum, matrix))
    iou, accuracy, dice, weighted = [], [], [], 0.0
    for k in range(K):
        hit = matrix[k][k]
        truth = sum(matrix[k])
        guess = sum(row[k] for row in matrix)
        union = truth + guess - hit
        iou.append(hit / union if union else None)
        dice.append(2 * hit / (truth + guess) if union else None)
        accuracy.append(hit / truth if truth else None)
        weighted += truth * hit / union if union else 0.0

    def mean(values):
        values = [v for v in values if v is not None]
        return math.fsum(values) / len(values) if values else None

    hits = sum(matrix[k][k] for k in range(K))
    share = [sum(row) / total if total else None for row in matrix]
    return {
        "miou": mean(iou),
        "pixel_accuracy": hits / total if total else None,
        "class_accuracy": mean(accuracy),
        "fwiou": weighted / total if total else None,
        "dice": mean(dice),
        "iou_per_class": dict(zip(NAMES, iou, strict=True)),
        "accuracy_per_class": dict(zip(NAMES, accuracy, strict=True)),
        "dice_per_class": dict(zip(NAMES, dice, strict=True)),
        "share_per_class": dict(zip(NAMES, share, strict=True)),
        "absent_classes": [n for n, v in zip(NAMES, iou, strict=True) if v is None],
        "pixels": total,
    }


def assert_close(got, want):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            assert_close(got[key], want[key])
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-12)
    else:
        assert got == want


@st.composite
def images(draw):
    """Predictions and labels, often with classes missing, sometimes all ignored."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    allowed = draw(st.sets(st.sampled_from([*range(K), IGNORE]), min_size=1))
    guesses = draw(st.sets(st.integers(0, K - 1), min_size=1))
    label = rng.choice(sorted(allowed), size=(2, 3, 7)).astype(np.uint8)
    prediction = rng.choice(sorted(guesses), size=label.shape).astype(np.int32)
    pixels = draw(st.integers(0, label.size))
    label.reshape(-1)[pixels:] = IGNORE
    return prediction, label


@settings(deadline=None, max_examples=60)
@given(images())
def test_counts_and_summary_are_those_of_loops(case):
    prediction, label = case
    want = slow_confusion(prediction, label)
    for platform, function in count.items():
        got = function(prediction, label)
        assert got.dtype == jnp.int32
        np.testing.assert_array_equal(got, want, err_msg=str(platform))
    summary = metrics.summarize(want, NAMES)
    assert summary.keys() == slow_summary(want).keys()
    for key, value in slow_summary(want).items():
        assert_close(summary[key], value)
    json.dumps(summary, allow_nan=False)


def test_a_hand_worked_case():
    # Truth a: 3 right, 1 called b; truth b: 2 right, 2 called a; c to e do not occur.
    matrix = np.zeros((K, K), np.int64)
    matrix[:2, :2] = [[3, 1], [2, 2]]
    summary = metrics.summarize(matrix, NAMES)
    assert summary["iou_per_class"] == {
        "a": 3 / 6,
        "b": 2 / 5,
        "c": None,
        "d": None,
        "e": None,
    }
    assert summary["absent_classes"] == ["c", "d", "e"]
    assert summary["miou"] == pytest.approx(0.45)
    assert summary["pixel_accuracy"] == pytest.approx(5 / 8)
    assert summary["class_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert summary["fwiou"] == pytest.approx((4 * 3 / 6 + 4 * 2 / 5) / 8)
    assert summary["dice"] == pytest.approx((6 / 9 + 4 / 7) / 2)
    assert summary["pixels"] == 8


def test_a_class_only_predicted_counts_with_iou_zero_but_has_no_accuracy():
    matrix = np.zeros((K, K), np.int64)
    matrix[0, 0], matrix[0, 1] = 3, 1
    summary = metrics.summarize(matrix, NAMES)
    assert summary["iou_per_class"]["b"] == 0 and "b" not in summary["absent_classes"]
    assert summary["accuracy_per_class"]["b"] is None
    assert summary["miou"] == pytest.approx(3 / 4 / 2)


def test_all_ignored_has_no_values():
    label = np.full((1, 4, 4), IGNORE, np.uint8)
    matrix = np.asarray(count[None](np.zeros((1, 4, 4), np.int32), label))
    summary = metrics.summarize(matrix, NAMES)
    assert summary["pixels"] == 0 and summary["absent_classes"] == list(NAMES)
    for key in ("miou", "pixel_accuracy", "class_accuracy", "fwiou", "dice"):
        assert summary[key] is None


def test_the_sum_passes_two_to_the_31():
    batch = np.full((K, K), 2**31 - 1, np.int32)
    confusion = metrics.Confusion(K)
    for _ in range(5):
        confusion.add(jnp.asarray(batch))
    assert confusion.matrix.dtype == np.int64
    assert (confusion.matrix == 5 * (2**31 - 1)).all()
    summary = confusion.summarize(NAMES)
    assert summary["pixels"] == 25 * 5 * (2**31 - 1)
    assert summary["miou"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("platform", [None, "tpu"])
def test_a_split_batch_counts_the_same(platform):
    rng = np.random.default_rng(0)
    label = rng.choice([*range(K), IGNORE], size=(8, 6, 5)).astype(np.uint8)
    prediction = rng.integers(0, K, label.shape).astype(np.int32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    got = count[platform](*(jax.device_put(x, sharding) for x in (prediction, label)))
    np.testing.assert_array_equal(got, slow_confusion(prediction, label))


def test_wrong_shapes_say_what_to_do():
    with pytest.raises(ValueError, match="does not fit 2 class names"):
        metrics.summarize(np.zeros((3, 3), np.int64), ("a", "b"))
    with pytest.raises(ValueError, match="use the same number of classes"):
        metrics.Confusion(3).add(np.zeros((4, 4), np.int32))
