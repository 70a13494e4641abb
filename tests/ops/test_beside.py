"""Images side by side: the same convolution, where a CPU's cores would be idle else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import conv, table
from segjax.ops.beside import beside, busiest, pieces, tile

CASES = [
    # images and rows of the map, kernel, strides, padding, dilation, count, parts
    ((4, 6, 5), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2, 1),
    ((4, 6, 5), (3, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4, 3),
    ((1, 8, 7), (3, 3, 2, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1, 4),
    ((2, 7, 9), (5, 3, 2, 3), (1, 1), ((0, 1), (2, 0)), (1, 2), 2, 2),
    ((2, 8, 9), (3, 3, 2, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2, 2),
    ((2, 11, 10), (7, 7, 3, 2), (2, 3), ((3, 3), (3, 2)), (1, 1), 1, 3),
    ((3, 9, 4), (2, 3, 2, 2), (3, 2), ((0, 1), (1, 1)), (1, 1), 3, 3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_convolution_is_the_same(case):
    """Forward and both gradients, in float64, as of XLA's own convolution."""
    size, shape, strides, padding, dilation, count, parts = case
    rng = np.random.default_rng(1)

    def plain(x, kernel):
        return conv.conv2d(
            x, kernel, strides=strides, padding=padding, dilation=dilation
        )

    def pieced(x, kernel):
        return beside(x, kernel, strides, padding, dilation, count, parts)

    def run(function, *arrays):
        y, pull = jax.vjp(function, *arrays)
        return y, *pull(jnp.cos(y))

    with jax.enable_x64(True):
        arrays = rng.normal(size=(*size, shape[2])), rng.normal(size=shape)
        arrays = tuple(map(jnp.asarray, arrays))
        wanted, found = jax.jit(lambda *a: (run(plain, *a), run(pieced, *a)))(*arrays)
    assert wanted[0].shape[1] % parts == 0
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "columns, channels, products, tiles",
    [
        # One tile or more, as one or two of two cores were busy (jaxlib 0.10.2).
        (64, 64, 576, 1),
        (64, 64, 2304, 1),
        (128, 64, 576, 2),
        (64, 128, 576, 2),
        (32, 128, 576, 1),
        (32, 128, 1152, 2),
        (16, 256, 2304, 4),
        (16, 128, 576, 1),
        (128, 32, 576, 1),
        (256, 21, 144, 1),
        (516, 21, 144, 2),
    ],
)
def test_tiles(columns, channels, products, tiles):
    m, n = tile(columns, channels, products)
    assert -(-columns // m) * -(-channels // n) == tiles


def test_the_busiest_core():
    # Tiles of 64 x 64; the third is 2 columns wide.
    assert tile(130, 64, 1024) == (64, 64)
    assert busiest(1, 130, 64, 1024) == 130 * 64
    assert busiest(2, 130, 64, 1024) == 66 * 64
    assert busiest(3, 130, 64, 1024) == 64 * 64
    # 512 + 4 columns: the second core has next to nothing to do.
    assert busiest(2, 516, 21, 144) == 512 * 21


@pytest.mark.parametrize(
    "workers, images, size, kernel, wanted",
    [
        (2, 4, (64, 64), (3, 3, 64, 64), (2, 1)),
        (2, 3, (64, 64), (3, 3, 64, 64), (1, 2)),  # 3 tiles are not even
        (2, 1, (64, 64), (3, 3, 64, 64), (1, 2)),
        (2, 1, (63, 64), (3, 3, 64, 64), (1, 1)),  # rows do not part
        (2, 4, (256, 256), (3, 3, 16, 21), (4, 1)),
        (2, 4, (64, 64), (3, 3, 64, 256), (1, 1)),  # tiles enough
        (1, 4, (64, 64), (3, 3, 64, 64), (1, 1)),
        (8, 16, (64, 64), (3, 3, 64, 64), (16, 4)),
        (2, 4, (64, 64), (3, 3, 4, 16), (1, 1)),  # copies would cost more
    ],
)
def test_how_many_pieces(workers, images, size, kernel, wanted):
    found = pieces(workers, images, size, kernel)
    assert found == wanted


@pytest.fixture
def two_cores(monkeypatch):
    """One device on two cores, which tests have eight virtual ones of."""
    monkeypatch.setattr(table, "cores", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize("strides, channels, filters", [(1, 63, 64), (2, 64, 128)])
def test_a_cpu_puts_images_side_by_side(two_cores, strides, channels, filters):
    """Float32 alone, by the table; value and gradients agree with the plain ones."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 64 * strides, 64, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, filters)).astype(np.float32)

    def run(platform):
        def function(x, kernel):
            y, pull = jax.vjp(
                lambda *a: conv.conv2d(
                    *a, strides=strides, padding=1, platform=platform
                ),
                x,
                kernel,
            )
            return y, *pull(jnp.cos(y))

        return jax.jit(function)

    text = str(jax.make_jaxpr(run("cpu"))(x, kernel)).replace(" ", "")
    # Two images, and the zeros of their padding between.
    assert f"f32[1,64,{(2 * 64 + 4) // strides},{filters}]=conv_general" in text
    for a, b in zip(run("cpu")(x, kernel), run(None)(x, kernel), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def test_others_leave_the_cores_to_xla(two_cores, monkeypatch):
    rest = 4, (64, 64), (3, 3, 64, 64), (1, 1)
    assert table.beside(jnp.float32, *rest) == (2, 1)
    assert table.beside(jnp.float64, *rest) == (1, 1)
    assert table.beside(jnp.bfloat16, *rest) == (1, 1)
    assert table.beside(jnp.float32, 4, (256, 256), (3, 3, 16, 16), (1, 1)) == (1, 1)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert table.beside(jnp.float32, *rest) == (1, 1)
