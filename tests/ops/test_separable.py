"""Separable convolutions by rows of the kernel, and pixels picked first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import table
from segjax.ops.conv import conv2d
from segjax.ops.separable import separable_by_rows
from segjax.ops.shift import picked
from tests.ops.draws import close


@pytest.mark.parametrize(
    "kernel, dilation, height", [(3, 2, 9), (3, 6, 9), (3, 12, 9), (5, 2, 7)]
)
def test_separable_by_rows(kernel, dilation, height):
    """Value and gradients; also of taps that see the padding only."""
    rng = np.random.default_rng(kernel * dilation)
    x = rng.normal(size=(2, height, 5, 6))
    depthwise = rng.normal(size=(kernel, kernel, 1, 6))
    pointwise = rng.normal(size=(1, 1, 6, 3))

    def plain(x, depthwise, pointwise):
        y = conv2d(
            x,
            depthwise,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=6,
        )
        return conv2d(y, pointwise)

    def run(x, depthwise, pointwise):
        y, back = jax.vjp(plain, x, depthwise, pointwise)
        ours, ours_back = jax.vjp(
            lambda *a: separable_by_rows(*a, dilation), x, depthwise, pointwise
        )
        g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return (y, *back(g)), (ours, *ours_back(g))

    with jax.enable_x64(True):
        for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
            arrays = (a.astype(dtype) for a in (x, depthwise, pointwise))
            for wanted, found in zip(*jax.jit(run)(*arrays), strict=True):
                close(found, wanted, tolerance)


def test_picked_pixels():
    x = np.arange(2 * 8 * 6 * 3).reshape(2, 8, 6, 3)
    np.testing.assert_array_equal(picked(jnp.asarray(x), (2, 3)), x[:, ::2, ::3])


def test_when_they_are_chosen():
    none = ((0, 0), (0, 0))
    assert table.picked(4, (16, 16), (1, 1, 8, 8), (2, 2), none)
    assert table.picked(4, (16, 2), (1, 1, 8, 8), (2, 2), none)  # whole columns
    assert not table.picked(4, (12, 16), (1, 1, 8, 8), (2, 2), none)  # rows left over
    assert not table.picked(4, (16, 16), (3, 3, 8, 8), (2, 2), none)
    assert not table.picked(1, (16, 16), (1, 1, 8, 8), (2, 2), none)
    assert table.separable_by_rows(8, 64, 3, 12, 2048, 256)
    assert not table.separable_by_rows(8, 256, 3, 12, 2048, 256)  # the neighbour's
    assert not table.separable_by_rows(8, 64, 3, 12, 256, 256)
    assert not table.separable_by_rows(1, 64, 3, 120, 2048, 256)
