"""Attention by NumPy loops, and what the networks around it do to sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import build, build_classifier
from segjax.models.attention import attend
from tests.models.families import SMALL

KEY = jax.random.key(0, impl="rbg")  # compiles faster


def encoder_of(name):
    return build(name, "fcn32s", 2).encoder.clone(**SMALL[name])


def started(model, x, **options):
    """Result and variables of an initialisation, compiled as one program."""
    return jax.jit(lambda x: model.init_with_output(KEY, x, **options))(x)


@pytest.mark.parametrize("biased", [False, True])
def test_attention(biased):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 3, 8)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, 5, 8)).astype(np.float32)
    bias = biased * rng.normal(size=(1, 4, 3, 5)).astype(np.float32)
    added = jnp.asarray(bias) if biased else None
    arrays = (jnp.asarray(array) for array in (query, key, value))
    y = attend(*arrays, 4, added)
    for b, n, h in np.ndindex(2, 3, 4):
        part = slice(2 * h, 2 * h + 2)
        scores = key[b, :, part] @ query[b, n, part] / 2**0.5 + bias[0, h, n]
        weights = np.exp(scores)
        wanted = weights @ value[b, :, part] / weights.sum()
        np.testing.assert_allclose(y[b, n, part], wanted, rtol=1e-4, atol=1e-6)


def test_half_precision_softmax_is_float32():
    """Where bfloat16 could not tell a sum of 513 weights from 512."""
    value = jnp.ones((1, 513, 1), jnp.bfloat16).at[0, 0].set(513)
    zeros = jnp.zeros((1, 513, 1), jnp.bfloat16)
    y = attend(zeros[:, :1], zeros, value, heads=1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), [[[2]]], rtol=2**-7)


def test_mit_takes_an_image_smaller_than_an_attention_window():
    encoder = encoder_of("mit_b0")
    x = jax.random.normal(KEY, (1, 20, 9, 3))
    features, variables = started(encoder, x, train=False)
    assert [m.shape[1:3] for m in features.maps] == [(5, 3), (3, 2), (2, 1), (1, 1)]
    assert all(np.isfinite(m).all() for m in features.maps)


def test_vits_pyramid_is_its_tokens_resized():
    encoder = encoder_of("vit_small")
    x = jax.random.normal(KEY, (1, 40, 72, 3))  # 3 x 5 patches, the last ones cut
    features, variables = started(encoder, x, train=False)
    padded = jnp.pad(x, ((0, 0), (0, 8), (0, 8), (0, 0)))
    whole = jax.jit(partial(encoder.apply, train=False))(variables, padded)
    for a, b in zip(features.tokens, whole.tokens, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    grids = [np.asarray(t)[0, 1:].reshape(3, 5, 16) for t in features.tokens]
    maps = [np.asarray(m)[0] for m in features.maps]
    assert [m.shape[:2] for m in maps] == [(10, 18), (5, 9), (3, 5), (2, 3)]
    np.testing.assert_array_equal(maps[2], grids[2])
    largest = np.pad(grids[3], ((0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    largest = largest.reshape(2, 2, 3, 2, 16).max((1, 3))
    np.testing.assert_array_equal(maps[3], largest)
    for stride, grid, found in ((4, grids[0], maps[0]), (8, grids[1], maps[1])):
        for axis in (0, 1):
            places = (np.arange(found.shape[axis]) + 0.5) * stride / 16 - 0.5
            grid = np.apply_along_axis(
                lambda line, at: np.interp(at, np.arange(len(line)), line),
                axis,
                grid,
                places,
            )
        np.testing.assert_allclose(found, grid, atol=1e-5)


def test_vits_classifier_sees_the_class_token_alone():
    model = build_classifier("vit_small", 3)
    model = model.clone(encoder=encoder_of("vit_small"))
    x = jax.random.normal(KEY, (1, 32, 32, 3))
    logits, variables = started(model, x)
    features = jax.jit(partial(model.encoder.apply, train=False))(
        {"params": variables["params"]["encoder"]}, x
    )
    token = np.asarray(features.tokens[-1])[0, 0].astype(np.float64)
    normed = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
    wanted = normed @ np.asarray(variables["params"]["head"]["head"]["kernel"])
    np.testing.assert_allclose(logits[0], wanted, rtol=1e-3)
