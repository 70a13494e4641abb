"""Packed maps against the plain convolution of the map that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import packed, pool
from segjax.ops.conv import conv2d
from segjax.ops.norm import batch_norm, batch_norm_train
from segjax.ops.packed import Packed
from segjax.ops.resize import upsample_nearest


def random(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def agree(ours, plain, *arguments):
    """Value and all gradients, with the same random cotangent."""
    for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.float32, 1e-5)):
        with jax.enable_x64(True):
            arguments = [jnp.asarray(a, dtype) for a in arguments]
            y, back = jax.vjp(ours, *arguments)
            wanted, back_plain = jax.vjp(plain, *arguments)
            g = random(np.random.default_rng(5), *wanted.shape).astype(dtype)
            pairs = [(y, wanted), *zip(back(g), back_plain(g), strict=True)]
            for one, other in pairs:
                assert one.dtype == other.dtype == dtype
                largest = max(1, np.abs(other).max(initial=0))
                np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("window", [(1, 2), (2, 2), (2, 4)])
def test_pixels_lie_where_the_docstring_says(window):
    x = np.arange(2 * 4 * 8 * 3).reshape(2, 4, 8, 3)
    found = packed.pack(jnp.asarray(x), window)
    other = packed.pack_image(jnp.asarray(x, jnp.float32), window)
    np.testing.assert_array_equal(other.array, found.array)
    (r, c), array = window, np.asarray(found.array)
    for phase in range(r * c):
        part = x[:, phase // c :: r, phase % c :: c]
        np.testing.assert_array_equal(array[..., 3 * phase : 3 * phase + 3], part)
    np.testing.assert_array_equal(packed.unpack(found), x)
    assert (found.size, found.channels, found.phases) == ((4, 8), 3, r * c)


@pytest.mark.parametrize(
    "window, other", [((2, 2), (1, 2)), ((2, 4), (2, 2)), ((2, 2), (4, 1))]
)
def test_from_one_window_to_another(window, other):
    x = jnp.arange(2 * 4 * 8 * 3).reshape(2, 4, 8, 3)
    found = packed.pack(packed.pack(x, window), other)
    np.testing.assert_array_equal(found.array, packed.pack(x, other).array)


@pytest.mark.parametrize(
    "kernel_size, source, window, factor",
    [
        (3, (2, 2), (2, 2), 1),  # a block's second convolution, the head
        (3, (2, 4), (2, 4), 1),
        (1, (2, 2), (2, 2), 1),
        (3, (1, 1), (2, 2), 1),  # a skip, strided
        (3, (1, 1), (2, 2), 2),  # what is upsampled
        (3, (1, 2), (2, 4), 2),
        (3, (1, 1), (2, 4), 2),
    ],
)
def test_convolution(kernel_size, source, window, factor):
    rng = np.random.default_rng(kernel_size)
    size = (8 // factor, 16 // factor)
    x = random(rng, 2, *size, 3)
    kernel, bias = random(rng, kernel_size, kernel_size, 3, 5), random(rng, 5)

    def ours(x, kernel, bias):
        y = packed.conv(packed.pack(x, source), kernel, window, factor=factor)
        assert y.window == window and y.size == (8, 16)
        return packed.unpack(packed.add_bias(y, bias))

    def plain(x, kernel, bias):
        x = upsample_nearest(x, factor)
        return conv2d(x, kernel, padding=kernel_size // 2) + bias[None, None, None]

    agree(ours, plain, x, kernel, bias)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm(groups):
    rng = np.random.default_rng(groups)
    x, scale, bias = random(rng, 4, 6, 4, 3), random(rng, 3), random(rng, 3)

    def ours(x, scale, bias):
        y, mean, var = batch_norm_train(
            packed.pack(x, (2, 2)).array, scale, bias, relu=True, groups=groups
        )
        assert mean.shape == var.shape == (3,)
        return packed.unpack(Packed(y, (2, 2)))

    def plain(x, scale, bias):
        return batch_norm_train(x, scale, bias, relu=True, groups=groups)[0]

    agree(ours, plain, x, scale, bias)
    mean, var = random(rng, 3), jnp.square(random(rng, 3))
    given = batch_norm(packed.pack(x, (2, 2)).array, scale, bias, mean, var)
    np.testing.assert_allclose(
        packed.unpack(Packed(given, (2, 2))),
        batch_norm(x, scale, bias, mean, var),
        atol=1e-5,
    )


def test_channels_that_fill_the_lanes():
    assert [packed.filled(k, 4) for k in (1, 21, 32, 33, 150)] == [32, 32, 32, 64, 160]
    assert [packed.filled(k, 8) for k in (1, 21, 32, 33)] == [16, 32, 32, 48]


@pytest.mark.parametrize(
    "kernel_size, strides, window",
    [(7, 2, (2, 2)), (7, 2, (1, 1)), (7, 4, (1, 1)), (3, 2, (2, 2)), (5, 2, (2, 2))],
)
def test_a_strided_convolution_of_an_image(kernel_size, strides, window):
    rng = np.random.default_rng(kernel_size)
    x, kernel = random(rng, 2, 8, 16, 3), random(rng, kernel_size, kernel_size, 3, 5)
    block = (strides * window[0], strides * window[1])

    def ours(x, kernel):
        y = packed.conv(packed.pack_image(x, block), kernel, window, strides=strides)
        assert y.window == window and y.size == (8 // strides, 16 // strides)
        return packed.unpack(y)

    def plain(x, kernel):
        return conv2d(x, kernel, strides=strides, padding=kernel_size // 2)

    agree(ours, plain, x, kernel)


def test_max_pooling():
    """Also of equal values, whose first one in row order takes the gradient."""
    rng = np.random.default_rng(0)

    def ours(x):
        return packed.max_pool(packed.pack(x, (2, 2)))

    def plain(x):
        return pool.max_pool(x, 3, 2, 1)

    x = random(rng, 2, 8, 12, 3)
    agree(ours, plain, x)
    agree(ours, plain, jnp.round(x))
    agree(ours, plain, jnp.full((1, 4, 4, 1), -1.0))


def test_the_gradient_of_max_pooling_within_jit_and_a_checkpoint():
    x = random(np.random.default_rng(0), 2, 4, 4, 3).astype(jnp.float32)

    def total(pooled, x):
        return jnp.sum(jnp.sin(pooled(x)))

    def ours(x):
        return packed.max_pool(packed.pack(x, (2, 2)))

    wanted = jax.grad(lambda x: total(lambda x: pool.max_pool(x, 3, 2, 1), x))(x)
    for pooled in (jax.jit(ours), jax.checkpoint(ours)):
        found = jax.grad(lambda x, p=pooled: total(p, x))(x)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
