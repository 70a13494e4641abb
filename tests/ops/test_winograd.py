"""Convolutions by Winograd's F(2x2, 3x3), and when a CPU computes them so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax.models import build
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


@pytest.mark.parametrize(
    "shape, number, images, pairs",
    [
        ((4, 12, 8, 16), 4, 1, 6),  # an image each
        ((4, 6, 8, 16), 2, 2, 3),  # two images each
        ((3, 32, 8, 16), 6, 1, 8),  # half an image
        ((1, 26, 8, 16), 2, 1, 7),  # 13 pairs of rows, a prime: one too many
        ((2, 5, 999, 16), 6, 1, 1),  # never less than a pair of rows
    ],
)
def test_the_bands_of_a_map(monkeypatch, shape, number, images, pairs):
    """BAND values at most, of the side with more channels; together the whole map."""
    monkeypatch.setattr(winograd, "BAND", 2**12)
    bands = winograd._Bands(shape, 32)
    assert (bands.number, bands.images, bands.high) == (number, images, pairs)
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    padded = bands.rows(x)[:, 1:-1]
    cuts = jnp.concatenate([bands.cut(padded, n, 0) for n in range(number)])
    assert jnp.array_equal(cuts.reshape(padded.shape)[:, : shape[1]], x)
    assert bands.spare < 2 * pairs


@pytest.fixture
def on_one_device(monkeypatch):
    """A process with one device, whose deep maps begin at 64 pixels of 64 channels."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    monkeypatch.setattr(table, "DEEP", 2**18)


@pytest.mark.parametrize("dilation", (1, 2))
def test_a_cpu_convolves_deep_maps_so(on_one_device, dilation):
    """Value and gradients of conv2d as plain, in no convolution of XLA's."""
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, 11, 8, 64)), rng.normal(size=(3, 3, 64, 65))

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


def test_images_do_not_see_each_other(on_one_device):
    """Nor where the first value, by which XLA keeps the convolution apart, is none."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 8, 8, 64)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 64, 64)).astype(np.float32)
    wanted = plain(x, kernel, (1, 1))
    x[0, 0, 0, 0] = np.nan
    y = np.asarray(conv.conv2d(x, kernel, padding=1, platform="cpu"))
    close(y[1], wanted[1], 1e-5)
    close(y[0, 2:], wanted[0, 2:], 1e-5)
    assert np.isnan(y[0, 0, 0]).all()
    assert conv.conv2d(x[:0], kernel, padding=1, platform="cpu").shape == (0, 8, 8, 64)


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
    # Maps that are mostly what completes them: deeplabv3's rates.
    assert chosen(48, (512, 256), pad=12, d=12)
    assert not any(chosen(32, (512, 256), pad=d, d=d) for d in (12, 24, 36))
    assert not chosen(4, (1024, 1024))
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


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ("unet", "deeplabv3plus"))
def test_all_gradients_of_a_network(monkeypatch, decoder):
    """As by the plain formulations, in float64; three stages go by Winograd's."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    monkeypatch.setattr(table, "DEEP", 2**22)
    calls, convolve = [], winograd.convolve

    def counted(*args, **options):
        calls.append(args[0].shape)
        return convolve(*args, **options)

    monkeypatch.setattr(winograd, "convolve", counted)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 128, 128, 3))
    weights = rng.normal(size=(2, 128, 128, 5))

    def gradients(platform, variables=None):
        double = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        model = build("resnet18", decoder, 5, platform=platform, **double)
        if variables is None:
            init = jax.jit(lambda key: model.init(key, image, train=False))
            variables = init(jax.random.key(0))

        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params},
                image,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            return (logits * weights).mean()

        return variables, jax.jit(jax.grad(loss))(variables["params"])

    with jax.enable_x64(True):
        variables, found = gradients("cpu")
        _, wanted = gradients(None, variables)
    assert len({shape[1:] for shape in calls}) >= 3
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.abs(a - b).max() <= 1e-10 * np.abs(b).max()
