"""Filter gradients of large maps, and what convolves them, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import conv, filter_gradient, table
from tests.ops.draws import close

TOLERANCES = ((np.float64, 1e-10), (np.float32, 1e-5))


@pytest.fixture
def on_one_device(monkeypatch):
    """A process with one device, whose large maps begin at 16 pixels."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    monkeypatch.setattr(table, "LARGE", 16)


def geometry(name, rng):
    """Batch, size, kernel, strides, padding and dilation that a formulation takes."""
    kernel = tuple(int(n) for n in rng.integers(1, 6, 2))
    bands = "bands" in name
    strides = (1, 1) if bands else tuple(int(n) for n in rng.integers(1, 4, 2))
    dilation = tuple(int(n) for n in rng.integers(1, 4, 2)) if bands else (1, 1)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(tuple(int(n) for n in rng.integers(0, r + 2, 2)) for r in reach)
    size = tuple(
        int(max(rng.integers(1, 22), r + 1 - sum(p)))
        for r, p in zip(reach, padding, strict=True)
    )
    return int(rng.integers(1, 5)), size, kernel, strides, padding, dilation


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ("windows", "split in bands", "gim in bands"))
def test_drawn_geometries(name, seed):
    """1e-10 in float64, 1e-5 in float32."""
    rng = np.random.default_rng(seed)
    even = False
    while not even:
        batch, size, kernel, strides, padding, dilation = geometry(name, rng)
        out = size[1] + sum(padding[1]) - dilation[1] * (kernel[1] - 1) - 1
        even = name != "windows" or (out // strides[1] + 1) % 2 == 0
    c_in, c_out = (int(n) for n in rng.integers(1, 6, 2))
    x = rng.normal(size=(batch, *size, c_in))
    taps = rng.normal(size=(*kernel, c_in, c_out))

    def run(x, taps):
        y, pull = jax.vjp(
            lambda taps: conv.conv2d(
                x, taps, strides=strides, padding=padding, dilation=dilation
            ),
            taps,
        )
        g = jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))
        function = filter_gradient.FORMULATIONS[name]
        return function(x, g, taps.shape, strides, padding, dilation), pull(g)[0]

    with jax.enable_x64(True):
        for dtype, tolerance in TOLERANCES:
            close(*jax.jit(run)(x.astype(dtype), taps.astype(dtype)), tolerance)


@pytest.mark.parametrize(
    "size, kernel, strides, formulation",
    [
        # A ResNet's stem, VGG's first layers, the last of a U-Net, and its head.
        (256, (7, 7, 3, 64), 2, "windows"),
        (256, (3, 3, 3, 64), 1, "windows"),
        (256, (3, 3, 64, 64), 1, "split in bands"),
        (256, (3, 3, 16, 21), 1, "split in bands"),
        (128, (3, 3, 128, 32), 1, "gim in bands"),
        (128, (2, 2, 32, 64), 1, "split in bands"),
        (64, (3, 3, 256, 256), 1, "winograd"),
        (32, (3, 3, 512, 512), 1, "winograd"),
        (64, (3, 3, 64, 64), 1, "winograd"),
        (8, (3, 3, 512, 512), 1, "winograd"),
        (128, (3, 3, 64, 128), 1, "winograd"),
        (128, (3, 3, 64, 64), 1, "split in bands"),
        (32, (3, 3, 64, 64), 1, "pairs"),
        (16, (2, 2, 64, 128), 1, "taps"),
        (256, (4, 4, 3, 96), 4, "blocks"),
        (64, (2, 2, 96, 192), 2, "blocks"),
    ],
    ids=str,
)
def test_the_table_looks_at_the_size(monkeypatch, size, kernel, strides, formulation):
    pad = 0 if strides == kernel[0] else kernel[0] // 2
    sides = ((pad, pad), (pad, pad))
    args = ("cpu", jnp.float32, (size, size), kernel, (strides, strides), sides, 1)
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    assert table.conv(*args) == formulation
    # Devices that share a batch would gather the band of one image.
    monkeypatch.setattr(table.jax, "device_count", lambda: 2)
    assert table.conv(*args) not in (
        *("split in bands", "gim in bands", "windows", "winograd"),
    )


def test_bands_are_of_many_rows(monkeypatch):
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)

    def chosen(size, kernel, reach=1):
        sides = ((reach, reach), (reach, reach))
        how = (1, 1), sides, 1, (reach, reach)
        return table.conv("cpu", jnp.float32, size, kernel, *how)

    shape = (3, 3, 32, 32)
    assert chosen((136, 140), shape) == "split in bands"  # 17 bands of 8 rows
    assert chosen((257, 257), shape) == "split"  # a prime: of one row each
    assert chosen((128, 128), shape, reach=4) == "split in bands"
    assert chosen((128, 128), shape, reach=5) == "split"  # 10 rows more for 16


@pytest.mark.parametrize(
    "size, shape, strides, padding, dilation, formulation",
    [
        ((9, 12), (7, 7, 3, 4), 2, 3, 1, "windows"),
        ((6, 8), (3, 3, 3, 4), 1, 1, 1, "windows"),
        ((8, 7), (3, 3, 8, 9), 1, 1, 1, "split in bands"),
        ((18, 9), (3, 3, 8, 8), 1, 2, 2, "split in bands"),
        ((10, 6), (3, 3, 16, 4), 1, 1, 1, "gim in bands"),
        ((10, 6), (3, 3, 40, 4), 1, 1, 1, "gim in bands"),  # the narrow one first
        ((9, 6), (2, 2, 8, 4), 1, 1, 1, "split in bands"),
        ((2, 3), (2, 2, 8, 4), 1, 1, 1, "taps"),
        ((8, 9), (2, 3, 5, 4), (2, 3), 0, 1, "blocks"),
    ],
    ids=str,
)
def test_convolutions_agree(
    on_one_device, size, shape, strides, padding, dilation, formulation
):
    """Result and both gradients as of the plain formulation."""
    how = conv.pair(strides), conv.both_sides(padding), 1, conv.pair(dilation)
    assert table.conv("cpu", jnp.float32, size, shape, *how) == formulation
    rng = np.random.default_rng(5)
    x, taps = rng.normal(size=(2, *size, shape[2])), rng.normal(size=shape)
    agree(
        TOLERANCES,
        lambda platform, x, taps: conv.conv2d(
            *(x, taps),
            strides=strides,
            padding=padding,
            dilation=dilation,
            platform=platform,
        ),
        *(x, taps),
    )


def agree(tolerances, function, *arrays):
    """``function(platform, *arrays)`` and its gradients for a CPU, and plain."""

    def both(*arrays):
        found = []
        for platform in ("cpu", None):
            y, pull = jax.vjp(lambda *a, p=platform: function(p, *a), *arrays)
            g = jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))
            found.append((y, *pull(g)))
        return found

    with jax.enable_x64(True):
        for dtype, tolerance in tolerances:
            fast, plain = jax.jit(both)(*(a.astype(dtype) for a in arrays))
            for a, b in zip(fast, plain, strict=True):
                close(a, b, tolerance)


@pytest.mark.parametrize("strides", (1, 2))
def test_fewer_channels_by_1x1(monkeypatch, strides):
    """The product of the fewer channels with the many, turned around."""
    monkeypatch.setattr(table, "narrow_first", lambda shape, c_out: shape[2] > c_out)
    rng = np.random.default_rng(8)
    x, kernel = rng.normal(size=(3, 4, 7, 9)), rng.normal(size=(1, 1, 9, 4))

    def function(platform, x, kernel):
        return conv.conv2d(x, kernel, strides=strides, platform=platform)

    agree(TOLERANCES, function, x, kernel)
    text = jax.make_jaxpr(jax.grad(lambda k: function("cpu", x, k).sum()))(kernel)
    assert "optimization_barrier" in str(text)


def test_which_1x1_convolutions_have_their_own_gradient(monkeypatch):
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    assert table.narrow_first((64, 64, 256), 64)
    assert not table.narrow_first((64, 64, 64), 256)
    assert not table.narrow_first((32, 32, 256), 64)
    monkeypatch.setattr(table.jax, "device_count", lambda: 2)
    assert not table.narrow_first((64, 64, 256), 64)


@pytest.mark.parametrize("skip", (0, 5))
@pytest.mark.parametrize("size", ((4, 3), (2, 5)))
def test_upsampled_convolution_by_corners(on_one_device, size, skip):
    target = (2 * size[0], 2 * size[1])
    for dtype in (jnp.float32, jnp.bfloat16):
        assert table.conv_upsampled("cpu", dtype, size, target) == "corners"
    rng = np.random.default_rng(6)
    x, kernel = rng.normal(size=(3, *size, 6)), rng.normal(size=(3, 3, 6 + skip, 4))
    side = rng.normal(size=(3, *target, skip))
    agree(
        TOLERANCES,
        lambda platform, x, side, kernel: conv.conv_upsampled(
            x, side if skip else None, kernel, target, platform=platform
        ),
        *(x, side, kernel),
    )


def test_without_padding_it_is_the_same():
    """XLA:CPU is slow at those; they get padding on the right, which is cut off."""
    rng = np.random.default_rng(7)
    x, kernel = rng.normal(size=(2, 6, 7, 4)), rng.normal(size=(3, 2, 4, 5))
    agree(TOLERANCES, lambda p, x, k: conv.conv2d(x, k, platform=p), x, kernel)
    text = jax.jit(lambda x, k: conv.conv2d(x, k, platform="cpu")).lower(x, kernel)
    assert "pad = [[0, 0], [0, 1]]" in text.as_text()
