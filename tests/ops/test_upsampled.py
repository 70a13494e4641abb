"""Loss and counts by strips against those of the upsampled scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.batch import IGNORE
from segjax.ops import scores as ops
from segjax.ops import upsampled
from segjax.ops.scores import Rule, Scores


def make(factor, classes, crop, dtype):
    rng = np.random.default_rng(factor)
    array = jnp.asarray(3 * rng.normal(size=(2, 6, 5, classes)), dtype)
    labels = rng.integers(0, classes, (2, 6 * factor - crop, 5 * factor - crop))
    labels[:, :3, 4:] = IGNORE
    size = (6 * factor, 5 * factor)
    rules = [
        Rule(size, labels.shape[1:], packed=None, platform=platform)
        for platform in ("tpu", None)
    ]
    return array, jnp.asarray(labels), rules


@pytest.mark.parametrize(
    "factor, classes, crop",
    [(4, 3, 0), (4, 40, 2), (8, 70, 3), (3, 5, 0), (2, 20, 1)],
)
def test_strips_are_the_plain_upsampling(monkeypatch, factor, classes, crop):
    monkeypatch.setattr(upsampled, "STRIP", 2 * 4 * 2 * 5 * 128)  # two rows at a time
    with jax.enable_x64(True):
        array, labels, (strips, plain) = make(factor, classes, crop, jnp.float64)

        def everything(rule):
            def loss(array):
                return 0.25 * ops.cross_entropy_sum(Scores(array, rule), labels)

            scores = Scores(array, rule)
            return (
                *jax.jit(jax.value_and_grad(loss))(array),
                ops.predictions(scores),
                ops.confusion_matrix(scores, labels),
            )

        value, slope, guess, counts = everything(strips)
        wanted_value, wanted_slope, wanted_guess, none = everything(plain)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-12)
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-12)
    np.testing.assert_array_equal(guess, wanted_guess)
    assert none is None
    valid = np.asarray(labels) != IGNORE
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (np.asarray(labels)[valid], np.asarray(guess)[valid]), 1)
    np.testing.assert_array_equal(counts, matrix)


def test_float32_strips_are_plain_to_the_fifth_digit():
    array, labels, (strips, plain) = make(4, 19, 0, jnp.float32)

    def loss(rule):
        return jax.jit(
            jax.value_and_grad(
                lambda array: ops.cross_entropy_sum(Scores(array, rule), labels)
            )
        )(array)

    (value, slope), (wanted, wanted_slope) = loss(strips), loss(plain)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-5)


def test_which_upsampling_has_a_whole_factor():
    assert upsampled.factor_of((4, 6), (16, 24)) == 4
    assert upsampled.factor_of((4, 6), (16, 25)) is None
    assert upsampled.factor_of((4, 6), (4, 6)) is None
    assert upsampled.factor_of((4, 6), (8, 24)) is None
