"""Upsampled cross-entropy in strips against NumPy and against all at once."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from segjax.batch import IGNORE
from segjax.losses import build_loss
from segjax.metrics import confusion_of_scores
from segjax.ops import strips
from segjax.ops.resize import bilinear_matrix
from segjax.ops.scores import Rule, Scores, finish, predictions
from tests.ops.draws import SEEDS, few

CLASSES = 5
# (source, size, crop, align_corners): by 4, by 2 and 3, by 1 and 8, fractions, shrunk.
CASES = [
    ((6, 5), (24, 20), (24, 20), False),
    ((6, 5), (24, 20), (21, 17), False),
    ((5, 4), (15, 8), (13, 8), False),
    ((4, 3), (4, 24), (4, 24), False),
    ((1, 1), (8, 8), (7, 5), False),
    ((6, 5), (24, 20), (24, 20), True),
    ((6, 5), (25, 33), (25, 33), False),
    ((6, 5), (4, 11), (4, 11), True),
]


def make(source, crop, dtype=np.float64, seed=0, scale=3.0, ignored=0.2):
    rng = np.random.default_rng(seed)
    scores = scale * rng.normal(size=(2, *source, CLASSES))
    labels = rng.integers(0, CLASSES, (2, *crop))
    labels[rng.random(labels.shape) < ignored] = IGNORE
    return jnp.asarray(scores, dtype), jnp.asarray(labels)


def oracle(scores, labels, size, align_corners):
    """Sum of the costs, slope and prediction, by matrices in float64."""
    rows, columns = (
        bilinear_matrix(size[i], scores.shape[1 + i], align_corners)[
            : labels.shape[1 + i]
        ]
        for i in (0, 1)
    )
    logits = np.einsum(
        "oh,pw,bhwk->bopk", rows, columns, np.asarray(scores, np.float64)
    )
    labels = np.asarray(labels)
    valid = labels != IGNORE
    one_hot = np.eye(CLASSES)[np.where(valid, labels, 0)] * valid[..., None]
    log_p = log_softmax(logits, -1)
    slope = np.exp(log_p) * valid[..., None] - one_hot
    slope = np.einsum("oh,pw,bopk->bhwk", rows, columns, slope)
    return -(one_hot * log_p).sum(), slope, logits.argmax(-1)


@cache
def compiled(size, align_corners, strip, platform):
    """(scores, labels) -> (half the sum, predictions), slope."""

    def loss(scores, labels):
        value, found = strips.cross_entropy_sum(
            scores,
            labels,
            size,
            align_corners=align_corners,
            strip=strip,
            platform=platform,
        )
        return 0.5 * value, found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("platform", [None, "tpu"])
@pytest.mark.parametrize("source, size, crop, align_corners", CASES)
@few
@given(
    seed=SEEDS,
    scale=st.sampled_from([1e-2, 3.0, 300.0]),
    ignored=st.sampled_from([0.2, 0.97, 1.0]),
)
def test_value_slope_and_prediction(
    source, size, crop, align_corners, platform, seed, scale, ignored
):
    with jax.enable_x64(True):
        scores, labels = make(source, crop, np.float64, seed, scale, ignored)
        total, wanted, best = oracle(scores, labels, size, align_corners)
        # One strip, and one of a single row at a time.
        for strip in (10**6, CLASSES * size[1]):
            both = compiled(size, align_corners, strip, platform)
            (value, found), slope = both(scores, labels)
            np.testing.assert_allclose(value, 0.5 * total, rtol=1e-13)
            np.testing.assert_allclose(slope, 0.5 * wanted, rtol=0, atol=1e-13)
            np.testing.assert_array_equal(found, best)
            assert found.dtype == jnp.int32


@pytest.mark.parametrize("platform", [None, "tpu"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_float32_and_bfloat16(align_corners, platform):
    scores, labels = make((6, 5), (24, 20), np.float32)
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)):
        rounded = scores.astype(dtype)
        total, wanted, _ = oracle(rounded, labels, (24, 20), align_corners)

        def loss(scores):
            return strips.cross_entropy_sum(
                scores,
                labels,
                (24, 20),
                align_corners=align_corners,
                strip=300,
                platform=platform,
            )[0]

        value, slope = jax.value_and_grad(loss)(rounded)
        np.testing.assert_allclose(value, total, rtol=1e-6)
        assert (value.dtype, slope.dtype) == (jnp.float32, dtype)
        error = np.abs(np.asarray(slope, np.float64) - wanted).max()
        assert error <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("platform", [None, "tpu"])
def test_huge_scores_all_ignored_and_equal_ones(platform):
    scores, labels = make((3, 3), (12, 12), np.float32)
    nothing = jnp.full_like(labels, IGNORE)
    for values in (scores, 1e4 * scores):

        def loss(scores):
            return strips.cross_entropy_sum(
                scores, nothing, (12, 12), align_corners=False, platform=platform
            )[0]

        value, slope = jax.value_and_grad(loss)(values)
        assert value == 0 and not np.any(slope)
    value = strips.cross_entropy_sum(
        1e4 * scores, labels, (12, 12), align_corners=False, platform=platform
    )[0]
    wanted = oracle(1e4 * scores, labels, (12, 12), False)[0]
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    equal = jnp.zeros((1, 2, 2, CLASSES))
    found = strips.predictions(
        equal, (8, 8), (7, 6), align_corners=False, platform=platform
    )
    np.testing.assert_array_equal(found, np.zeros((1, 7, 6)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_where_it_is(value):
    """The loss is not finite; pixels that such a score does not reach are as before."""
    scores, labels = make((6, 5), (24, 20), np.float32)
    bad = scores.at[0, 1, 1, 2].set(value)
    outcomes = []
    for platform in (None, "tpu"):
        both = compiled((24, 20), False, 300, platform)
        (total, best), slope = both(bad, labels)
        (_, good), fine = both(scores, labels)
        assert not np.isfinite(total) and not np.isfinite(slope).all()
        # By 4: 2 source pixels at most reach a pixel, so rows from 12 on are its own.
        np.testing.assert_array_equal(best[0, 12:], good[0, 12:])
        np.testing.assert_array_equal(best[1], good[1])
        np.testing.assert_allclose(slope[0, 4:], fine[0, 4:], rtol=0, atol=1e-5)
        np.testing.assert_allclose(slope[1], fine[1], rtol=0, atol=1e-5)
        outcomes.append(np.isnan(total))
    assert outcomes[0] == outcomes[1]


def test_no_array_of_the_logits_size():
    """Temporary memory of value and gradient: a fraction of the logits alone."""
    scores = jax.ShapeDtypeStruct((2, 64, 64, 50), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 256, 256), jnp.int32)

    def loss(scores, labels):
        return strips.cross_entropy_sum(
            scores, labels, (256, 256), align_corners=False, strip=2**17
        )[0]

    compiled = jax.jit(jax.value_and_grad(loss)).lower(scores, labels).compile()
    logits = 2 * 256 * 256 * 50 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < logits / 2


@pytest.mark.parametrize(
    "align_corners, platform", [(False, None), (True, None), (False, "tpu")]
)
def test_large_scores_take_the_strips_and_change_nothing(align_corners, platform):
    """Loss, gradient, predictions and counts of 40 classes at 256x240."""
    rng = np.random.default_rng(5)
    array = jnp.asarray(rng.normal(size=(1, 64, 60, 40)), jnp.float32)
    labels = rng.integers(0, 40, (1, 250, 240))
    labels[0, :9] = IGNORE
    labels = jnp.asarray(labels)
    rule = Rule((256, 240), (250, 240), align_corners, platform=platform)
    loss = build_loss("cross_entropy")

    def strip_by_strip(array):
        return loss.of_scores(Scores(array, rule), labels)

    def at_once(array):
        return loss.value(finish(Scores(array, rule)), labels)

    grad = jax.jit(jax.value_and_grad(strip_by_strip, has_aux=True))
    (value, predicted), slope = grad(array)
    wanted, wanted_slope = jax.jit(jax.value_and_grad(at_once))(array)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    error = np.abs(slope - wanted_slope).max()
    assert error < 1e-5 * np.abs(wanted_slope).max()
    logits = np.asarray(finish(Scores(array, rule)))
    best = np.sort(logits, -1)
    differs = np.asarray(predicted) != logits.argmax(-1)
    assert np.all((best[..., -1] - best[..., -2])[differs] < 1e-5)
    assert differs.mean() < 1e-4
    np.testing.assert_array_equal(predicted, predictions(Scores(array, rule)))
    counted = confusion_of_scores(Scores(array, rule), labels, 40)
    known = confusion_of_scores(Scores(array, rule), labels, 40, None, predicted)
    np.testing.assert_array_equal(counted, known)
    assert known.sum() == 241 * 240
