"""Loss and counts over lanes against NumPy on the unpacked scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from segjax.batch import IGNORE
from segjax.ops import lanes, packed

PHASES = 4


def make(classes, seed=0, dtype=np.float32, spread=3.0, filled=32):
    """(scores packed and filled up, logits [B, H, W, K], labels)."""
    rng = np.random.default_rng(seed)
    logits = (spread * rng.normal(size=(2, 4, 6, classes))).astype(dtype)
    labels = rng.integers(0, classes, (2, 4, 6))
    labels[rng.random(labels.shape) < 0.2] = IGNORE
    full = np.full((2, 4, 6, filled), lanes.NEVER, dtype)
    full[..., :classes] = logits
    array = packed.pack(jnp.asarray(full), (2, 2)).array.transpose(1, 2, 0, 3)
    return array, logits, jnp.asarray(labels)


def oracle(logits, labels):
    """Sum of the cross-entropies, and its slope [B, H, W, K], in float64."""
    logits, labels = logits.astype(np.float64), np.asarray(labels)
    log_p = log_softmax(logits, -1)
    valid = labels != IGNORE
    one_hot = np.eye(logits.shape[-1])[np.where(valid, labels, 0)]
    total = -(one_hot * log_p).sum(-1)[valid].sum()
    return total, (np.exp(log_p) - one_hot) * valid[..., None]


def unpacked(array, classes):
    array = packed.Packed(array.transpose(2, 0, 1, 3), (2, 2))
    return np.asarray(packed.unpack(array))[..., :classes]


@pytest.mark.parametrize("classes, filled", [(1, 32), (21, 32), (40, 64), (254, 256)])
@pytest.mark.parametrize("spread", [3.0, 1000.0])
def test_cross_entropy_and_its_gradient(classes, filled, spread):
    # With a spread of 1000 the best scores of neighbours lie further apart than any
    # exponential reaches: each pixel needs its own maximum.
    with jax.enable_x64(True):
        scores, logits, labels = make(classes, 1, np.float64, spread, filled)
        spread_labels = lanes.spread_labels(labels, (2, 2), scores.shape[3])

        def loss(scores):
            return 0.5 * lanes.cross_entropy_sum(scores, spread_labels, 4, classes)

        value, slope = jax.value_and_grad(loss)(scores)
        total, wanted = oracle(logits, labels)
        np.testing.assert_allclose(value, 0.5 * total, rtol=1e-12)
        got = unpacked(slope, filled)
        np.testing.assert_allclose(got[..., :classes], 0.5 * wanted, atol=1e-12)
        np.testing.assert_array_equal(got[..., classes:], 0)


def test_in_float32_and_bfloat16_scores():
    scores, logits, labels = make(21)
    spread = lanes.spread_labels(labels, (2, 2), 128)
    value, slope = jax.value_and_grad(lanes.cross_entropy_sum)(
        scores, spread, PHASES, 21
    )
    total, wanted = oracle(logits, labels)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    got = unpacked(slope, 21)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    rounded = scores.astype(jnp.bfloat16)
    value, slope = jax.value_and_grad(lanes.cross_entropy_sum)(
        rounded, spread, PHASES, 21
    )
    total, wanted = oracle(unpacked(rounded.astype(jnp.float32), 21), labels)
    np.testing.assert_allclose(value, total, rtol=1e-4)
    assert (value.dtype, slope.dtype) == (jnp.float32, jnp.bfloat16)
    # Exponentials of 8 bits, their sum and the slope's own 8 bits.
    got = unpacked(slope.astype(jnp.float32), 21)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2**-8)
    # What is summed is what is divided: probabilities add up to 1.
    _, e, summed, _ = lanes._pieces(PHASES, 21, rounded, spread)
    np.testing.assert_array_equal(e, e.astype(jnp.bfloat16).astype(jnp.float32))
    ratio = (e / summed).reshape(*e.shape[:3], PHASES, -1).sum(-1)
    np.testing.assert_allclose(ratio, 1, rtol=1e-6)
    # One product of bfloat16, summed in float32.
    jaxpr = str(jax.make_jaxpr(partial(lanes._pieces, PHASES, 21))(rounded, spread))
    (line,) = [line for line in jaxpr.splitlines() if "dot_general" in line]
    assert ":f32[" in line and "HIGH" not in jaxpr


def test_all_ignored_is_zero_without_a_slope():
    scores, _, labels = make(21)
    spread = lanes.spread_labels(jnp.full_like(labels, IGNORE), (2, 2), 128)
    value, slope = jax.value_and_grad(
        lambda s: lanes.cross_entropy_sum(s, spread, PHASES, 21)
    )(scores)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("classes, filled", [(1, 32), (21, 32), (40, 64)])
def test_predictions_and_confusion_matrix(classes, filled):
    scores, logits, labels = make(classes, 2, filled=filled)
    tied = jnp.round(scores)  # the first of equal scores wins
    guess = np.round(logits).argmax(-1)
    found = unpacked(lanes.predictions(tied, PHASES), 1)[..., 0]
    np.testing.assert_array_equal(found, guess)
    spread = lanes.spread_labels(labels, (2, 2), tied.shape[3])
    matrix = lanes.confusion_matrix(tied, spread, PHASES, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "COUNTED", 1)  # row by row
        rows = lanes.confusion_matrix(tied, spread, PHASES, classes)
    np.testing.assert_array_equal(matrix, rows)
    wanted = np.zeros((classes, classes), int)
    valid = np.asarray(labels) != IGNORE
    np.add.at(wanted, (np.asarray(labels)[valid], guess[valid]), 1)
    np.testing.assert_array_equal(matrix, wanted)
