"""ECE, NLL and Brier score against loops over pixels in float64."""

import math

import jax
import numpy as np
import pytest

from segjax import sharding
from segjax.batch import IGNORE
from segjax.metrics import calibration

K, BINS = 4, calibration.BINS


def case(batch=8):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(batch, 5, 7, K)) * rng.choice(
        [0.3, 1, 3, 9], (batch, 5, 7, 1)
    )
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float32)))
    label = rng.choice([*range(K), IGNORE], (batch, 5, 7)).astype(np.uint8)
    return probabilities, label


def slow(probabilities, label):
    bins = [[0, 0, 0.0] for _ in range(BINS)]
    nll = brier = 0.0
    for p, truth in zip(probabilities.reshape(-1, K), label.reshape(-1), strict=True):
        if truth == IGNORE:
            continue
        confidence = float(p.max())
        found = next(i for i in range(BINS) if confidence <= (i + 1) / BINS + 1e-9)
        bins[found][0] += 1
        bins[found][1] += int(p.argmax() == truth)
        bins[found][2] += confidence
        nll -= math.log(float(p[truth]))
        brier += sum((float(v) - (k == truth)) ** 2 for k, v in enumerate(p))
    return bins, nll, brier


def summary_of(rows):
    return calibration.summarize_calibration(calibration.calibration_sums(rows))


def test_the_sums_are_those_of_loops():
    probabilities, label = case()
    bins, nll, brier = slow(probabilities, label)
    pixels = sum(n for n, _, _ in bins)
    got = summary_of(jax.jit(calibration.calibration_rows)(probabilities, label))
    assert [b["pixels"] for b in got["calibration"]] == [n for n, _, _ in bins]
    ece = 0.0
    for b, (n, hits, confidence) in zip(got["calibration"], bins, strict=True):
        if not n:
            assert b["accuracy"] is None and b["confidence"] is None
            continue
        assert b["accuracy"] == pytest.approx(hits / n, rel=1e-12)
        assert b["confidence"] == pytest.approx(confidence / n, rel=1e-6)
        ece += n / pixels * abs(hits / n - confidence / n)
    assert got["ece"] == pytest.approx(ece, rel=1e-6)
    assert got["nll"] == pytest.approx(nll / pixels, rel=1e-5)
    assert got["brier"] == pytest.approx(brier / pixels, rel=1e-5)


def test_batches_and_devices_do_not_change_the_sums():
    probabilities, label = case()
    rows = jax.jit(calibration.calibration_rows)
    whole = calibration.calibration_sums(rows(probabilities, label))
    split = sharding.batch_sharding(sharding.make_mesh())
    over = rows(*(jax.device_put(x, split) for x in (probabilities, label)))
    parts = [
        calibration.calibration_sums(rows(probabilities[i : i + 2], label[i : i + 2]))
        for i in range(0, 8, 2)
    ]
    for key, want in whole.items():
        np.testing.assert_allclose(
            calibration.calibration_sums(over)[key], want, rtol=1e-12
        )
        np.testing.assert_allclose(sum(p[key] for p in parts), want, rtol=1e-12)


def test_a_hand_worked_case():
    # Two pixels at 0.8, one right; one at 1.0, right: |0.5 - 0.8| * 2 / 3.
    p = np.array([[[[0.8, 0.2], [0.2, 0.8], [0.0, 1.0]]]], np.float32)
    got = summary_of(calibration.calibration_rows(p, np.array([[[0, 0, 1]]])))
    assert got["ece"] == pytest.approx(0.2, rel=1e-6)
    assert got["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 3, rel=1e-6)
    assert got["brier"] == pytest.approx((0.08 + 1.28) / 3, rel=1e-6)
    assert got["calibration"][-1]["pixels"] == 1


def test_certain_and_wrong_stays_finite_and_nothing_has_no_value():
    p = np.array([[[[0.0, 1.0]]]], np.float32)
    got = summary_of(calibration.calibration_rows(p, np.array([[[0]]])))
    assert got["nll"] == pytest.approx(-math.log(calibration.LEAST))
    assert got["brier"] == 2 and got["ece"] == 1
    got = summary_of(calibration.calibration_rows(p, np.array([[[IGNORE]]])))
    assert got["ece"] is None and got["nll"] is None and got["brier"] is None
