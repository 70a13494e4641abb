"""Convolutions by Winograd's F(2x2, 3x3), and when a CPU computes them so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax.ops import conv, table, winograd
from tests.ops.draws import close

TOLERANCES = ((np.float64, 1e-10), (np.float32, 1e-5))


def plain(x, kernel, dilation):
    """XLA's own, with zeros around."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(d, d) for d in dilation],
        rhs_dilation=dilation,
        dimension_numbers=conv.DIMENSIONS,
    )


@pytest.mark.parametrize("seed", range(8))
def test_drawn_geometries(monkeypatch, seed):
    """Result and both gradients; odd sizes, dilations, bands and groups of images."""
    rng = np.random.default_rng(seed)
    batch, height, width, c_in, c_out = (int(n) for n in rng.integers(1, 10, 5))
    dilation = tuple(int(n) for n in rng.integers(1, 4, 2))
    monkeypatch.setattr(winograd, "BAND", int(rng.choice([1, 60, 400, 2**19])))
    x = rng.normal(size=(batch, height, width, c_in))
    kernel = rng.normal(size=(3, 3, c_in, c_out))
    g = rng.normal(size=(batch, height, width, c_out))
    same = tuple((d, d) for d in dilation)

    def run(x, kernel, g):
        y, pull = jax.vjp(lambda *a: plain(*a, dilation), x, kernel)
        found = (
            winograd.convolve(x, kernel, dilation),
            winograd.convolve(g, kernel, dilation, adjoint=True),
            winograd.filter_gradient(x, g, kernel.shape, (1, 1), same, dilation),
        )
        return found, (y, *pull(g))

    with jax.enable_x64(True):
        for dtype, tolerance in TOLERANCES:
            arrays = (a.astype(dtype) for a in (x, kernel, g))
            for fast, slow in zip(*jax.jit(run)(*arrays), strict=True):
                assert fast.shape == slow.shape
                close(fast, slow, tolerance)


@pytest.mark.parametrize("band", (2**19, 2**12))
def test_the_bands_of_a_map(monkeypatch, band):
    """Rows of an image, or images, BAND values at most, side by side a whole map."""
    monkeypatch.setattr(winograd, "BAND", band)
    shape = (4, 12, 8, 16)
    bands = winograd._Bands(shape, 32)
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    cuts = [bands.cut(x, n, 0) for n in range(bands.number)]
    assert jnp.array_equal(jnp.concatenate(cuts).reshape(shape), x)
    values = bands.images * 2 * bands.high * 8 * 32
    assert (bands.number, values) == {2**19: (1, 12288), 2**12: (4, 3072)}[band]
    # 13 pairs of rows: not one at a time, but an image.
    assert winograd._Bands((4, 26, 8, 16), 32).number == {2**19: 1, 2**12: 4}[band]


@pytest.fixture
def on_one_device(monkeypatch):
    """A process with one device, whose deep maps begin at 64 pixels of 64 channels."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    monkeypatch.setattr(table, "DEEP", 2**18)


@pytest.mark.parametrize("dilation", (1, 2))
def test_a_cpu_convolves_deep_maps_so(on_one_device, dilation):
    """Value and gradients of conv2d as plain, in no convolution of XLA's."""
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, 9, 8, 64)), rng.normal(size=(3, 3, 64, 65))

    def run(platform):
        def function(x, kernel):
            y, pull = jax.vjp(
                lambda *a: conv.conv2d(
                    *a, padding=dilation, dilation=dilation, platform=platform
                ),
                *(x, kernel),
            )
            return y, *pull(jnp.cos(y))

        return jax.jit(function)

    with jax.enable_x64(True):
        for dtype, tolerance in TOLERANCES:
            arrays = x.astype(dtype), kernel.astype(dtype)
            assert "conv_general" not in str(jax.make_jaxpr(run("cpu"))(*arrays))
            for a, b in zip(run("cpu")(*arrays), run(None)(*arrays), strict=True):
                close(a, b, tolerance)


def test_when(monkeypatch):
    """By the size and channels, 3x3 with zeros around, wide types, one device."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)

    def chosen(size, channels, dtype=jnp.float32, kernel=(3, 3), strides=1, pad=1, d=1):
        sides, dilation = ((pad, pad), (pad, pad)), (d, d)
        shape = (*kernel, *channels)
        return table.winograd(
            dtype, (size, size), shape, (strides, strides), sides, dilation
        )

    # A resnet18's layers at 256x256, and the same at 128x128.
    for size, channels in ((64, 64), (32, 128), (16, 256), (8, 512)):
        assert chosen(size, (channels, channels))
        assert not chosen(size // 2, (channels, channels))
    assert chosen(16, (512, 512), pad=2, d=2)
    assert chosen(128, (64, 128)) and not chosen(128, (64, 64))
    assert not chosen(128, (128, 32))
    assert chosen(64, (64, 64), jnp.float64)
    assert not chosen(64, (64, 64), jnp.bfloat16)
    assert not chosen(64, (64, 64), kernel=(5, 5), pad=2)
    assert not chosen(64, (64, 64), strides=2)
    assert not chosen(64, (64, 64), pad=0)
    assert not chosen(64, (64, 64), d=2)
    monkeypatch.setattr(table.jax, "device_count", lambda: 2)
    assert not chosen(64, (64, 64))
