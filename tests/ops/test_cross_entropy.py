"""softmax_cross_entropy against NumPy float64 and PyTorch."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.cross_entropy import softmax_cross_entropy
from tests.ops.draws import SEEDS, few
from tests.requirements import require_parity

SHAPE, CLASSES = (2, 5, 6), 4
WEIGHTS = (0.5, 2.0, 0.0, 1.25)
CASES = [(None, 0.0), (WEIGHTS, 0.0), (None, 0.1), (WEIGHTS, 0.3)]


def batch(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, SHAPE)
    labels[rng.random(SHAPE) < 0.2] = 255
    return rng.normal(size=(*SHAPE, CLASSES)) * scale, labels


def oracle(logits, labels, weights, smoothing):
    """One pixel at a time, from the definition."""
    loss = np.zeros(labels.shape)
    w = np.ones(logits.shape[-1]) if weights is None else np.asarray(weights)
    for at, y in np.ndenumerate(labels):
        if y != 255:
            x = logits[at]
            log_p = x - x.max() - np.log(np.exp(x - x.max()).sum())
            loss[at] = -(1 - smoothing) * w[y] * log_p[y] - smoothing * np.mean(
                w * log_p
            )
    return loss


@cache
def compiled(weights, smoothing):
    """(logits, labels, g) -> costs, and the gradient of <g, costs>."""

    def both(logits, labels, g):
        loss, pull = jax.vjp(
            lambda x: softmax_cross_entropy(
                x, labels, class_weights=weights, label_smoothing=smoothing
            ),
            logits,
        )
        return loss, *pull(g)

    return jax.jit(both)


@pytest.mark.parametrize(("weights", "smoothing"), CASES)
@few
@given(
    seed=SEEDS,
    scale=st.sampled_from([1e-3, 3.0, 1e3]),
    ignored=st.sampled_from([0.2, 0.97, 1.0]),
    classes=st.sampled_from([CLASSES, 1]),
)
def test_value_and_gradient(weights, smoothing, seed, scale, ignored, classes):
    logits, labels = batch(seed, scale)
    rng = np.random.default_rng(seed + 1)
    labels[rng.random(SHAPE) < ignored] = 255
    if classes == 1:
        logits, labels = logits[..., :1], np.where(labels == 255, 255, 0)
        weights = weights and weights[:1]
    g, way = rng.normal(size=SHAPE), rng.normal(size=logits.shape)
    with jax.enable_x64(True):
        loss, slope = compiled(weights, smoothing)(logits, labels, g)
    wanted = oracle(logits, labels, weights, smoothing)
    np.testing.assert_allclose(loss, wanted, rtol=1e-13, atol=1e-13)
    step, slope = 1e-6, np.asarray(slope)
    up, down = (
        oracle(logits + sign * step * way, labels, weights, smoothing)
        for sign in (1, -1)
    )
    terms = slope * way
    error = abs(terms.sum() - (g * (up - down)).sum() / (2 * step))
    # Rounding of costs of up to ``scale``, divided by the step.
    assert error <= 1e-6 * np.abs(terms).sum() + 1e-8 * max(scale, 1)
    assert not slope[labels == 255].any()


@pytest.mark.parametrize(("weights", "smoothing"), CASES)
def test_torch(weights, smoothing):
    torch = require_parity("torch")
    logits, labels = batch(2)
    x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=smoothing,
        ignore_index=255,
        reduction="none",
    )
    theirs.sum().backward()
    with jax.enable_x64(True):
        ours, slope = jax.value_and_grad(
            lambda x: softmax_cross_entropy(
                x,
                jnp.asarray(labels),
                class_weights=weights,
                label_smoothing=smoothing,
            ).sum()
        )(jnp.asarray(logits))
    np.testing.assert_allclose(ours, theirs.sum().item(), rtol=1e-12)
    np.testing.assert_allclose(
        slope, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-13
    )


def test_low_precision_logits_and_small_labels():
    logits, labels = batch()
    x = jnp.asarray(logits, jnp.bfloat16)
    loss = softmax_cross_entropy(x, jnp.asarray(labels, jnp.uint8))
    assert loss.dtype == jnp.float32
    expected = oracle(np.asarray(x, np.float64), labels, None, 0.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    slope = jax.grad(
        lambda x: softmax_cross_entropy(x, jnp.asarray(labels, jnp.uint8)).sum()
    )(x)
    assert slope.dtype == jnp.bfloat16


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_large_common_offset_loses_no_bits(offset):
    # Quarters are exact in float32 beside 1e6; log-sum-exp, added to it, would not be.
    x = np.array([[0.0, 0.25, 2.5, -1.0]]) + offset
    loss = softmax_cross_entropy(jnp.asarray(x, jnp.float32), jnp.array([1]))
    expected = np.log(np.exp([0.0, 0.25, 2.5, -1.0]).sum()) - 0.25
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_no_array_of_the_logits_size_is_stored_between_the_passes():
    shape = (2, 64, 64)
    compiled = (
        jax.jit(jax.grad(lambda x, y: softmax_cross_entropy(x, y).sum()))
        .lower(
            jax.ShapeDtypeStruct((*shape, 32), jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.int32),
        )
        .compile()
    )
    logits_bytes = 4 * 32 * np.prod(shape)
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * logits_bytes
