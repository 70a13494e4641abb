"""Packed maps against the plain convolution of the map that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import packed
from segjax.ops.conv import conv2d
from segjax.ops.norm import batch_norm, batch_norm_train
from segjax.ops.packed import Packed
from segjax.ops.resize import upsample_nearest


def random(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def agree(ours, plain, *arguments):
    """Value and all gradients, with the same random cotangent."""
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a, jnp.float64) for a in arguments]
        y, back = jax.vjp(ours, *arguments)
        wanted, back_plain = jax.vjp(plain, *arguments)
        g = random(np.random.default_rng(5), *wanted.shape)
        pairs = [(y, wanted), *zip(back(g), back_plain(g), strict=True)]
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def test_pixels_lie_where_the_docstring_says():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    array = np.asarray(packed.pack(jnp.asarray(x)).array)
    for phase in range(4):
        part = x[:, phase // 2 :: 2, phase % 2 :: 2]
        np.testing.assert_array_equal(array[..., 3 * phase : 3 * phase + 3], part)
    back = packed.unpack(packed.pack(jnp.asarray(x)))
    np.testing.assert_array_equal(back, x)
    assert packed.pack(jnp.asarray(x)).size == (4, 6)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [(2, 4), (6, 2), (8, 10)])
def test_convolution(kernel_size, size):
    rng = np.random.default_rng(sum(size))
    x = random(rng, 2, *size, 3)
    kernel = random(rng, kernel_size, kernel_size, 3, 5)
    bias = random(rng, 5)

    def ours(x, kernel, bias):
        y = packed.conv(packed.pack(x), kernel)
        return packed.unpack(packed.add_bias(y, bias))

    def plain(x, kernel, bias):
        return conv2d(x, kernel, padding=kernel_size // 2) + bias[None, None, None]

    agree(ours, plain, x, kernel, bias)


@pytest.mark.parametrize("size", [(1, 2), (3, 1), (4, 5)])
def test_convolution_of_an_upsampled_map(size):
    rng = np.random.default_rng(sum(size))
    x, kernel = random(rng, 2, *size, 3), random(rng, 3, 3, 3, 5)
    agree(
        lambda x, kernel: packed.unpack(packed.conv_upsampled(x, kernel)),
        lambda x, kernel: conv2d(upsample_nearest(x), kernel, padding=1),
        x,
        kernel,
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm(groups):
    rng = np.random.default_rng(groups)
    x, scale, bias = random(rng, 4, 6, 4, 3), random(rng, 3), random(rng, 3)

    def ours(x, scale, bias):
        y, mean, var = batch_norm_train(
            packed.pack(x).array, scale, bias, relu=True, groups=groups
        )
        assert mean.shape == var.shape == (3,)
        return packed.unpack(Packed(y))

    def plain(x, scale, bias):
        return batch_norm_train(x, scale, bias, relu=True, groups=groups)[0]

    agree(ours, plain, x, scale, bias)
    mean, var = random(rng, 3), jnp.square(random(rng, 3))
    given = batch_norm(packed.pack(x).array, scale, bias, mean, var)
    np.testing.assert_allclose(
        packed.unpack(Packed(given)),
        batch_norm(x, scale, bias, mean, var),
        atol=1e-5,
    )


def test_channels_that_fill_the_lanes():
    assert [packed.filled(k) for k in (1, 21, 32, 33, 150)] == [32, 32, 32, 64, 160]
