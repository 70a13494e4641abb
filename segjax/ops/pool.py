"""Max and average pooling."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.ops import table
from segjax.ops.conv import Padding, Pair, both_sides, pair


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: int | Sequence = 0,
    *,
    ceil_mode: bool = False,
    platform: str | None = None,
) -> jax.Array:
    """Maximum over windows of x[B, H, W, C], as torch.nn.MaxPool2d.

    ``strides`` defaults to the window. With ``ceil_mode`` the last window may hang
    over the edge, as long as it begins inside the image or the padding before it.
    The gradient goes to the first maximum of each window in row order.
    """
    window, strides, sides = _geometry(x, window, strides, padding, ceil_mode)
    if table.max_pool(platform) == "compares":
        return _max_compares(window, strides, sides, x)
    return _max_plain(window, strides, sides, x)


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: int | Sequence = 0,
    *,
    ceil_mode: bool = False,
    count_padding: bool = True,
    platform: str | None = None,
) -> jax.Array:
    """Mean over windows of x[B, H, W, C], as torch.nn.AvgPool2d.

    ``count_padding`` counts the padding (not ceil_mode's overhang) in the divisor.
    """
    given = both_sides(padding)
    window, strides, sides = _geometry(x, window, strides, padding, ceil_mode)
    total = lax.reduce_window(
        x, jnp.zeros((), x.dtype), lax.add, *_full(window, strides, sides)
    )
    counts = []
    for axis in range(2):
        low, high = given[axis] if count_padding else (0, 0)
        size = x.shape[1 + axis]
        begin = np.arange(total.shape[1 + axis]) * strides[axis] - sides[axis][0]
        end = np.minimum(begin + window[axis], size + high)
        counts.append(end - np.maximum(begin, -low))
    divisor = counts[0][:, None] * counts[1][None, :]
    return total / jnp.asarray(divisor, x.dtype)[None, :, :, None]


def _geometry(x, window, strides, padding, ceil_mode) -> tuple[Pair, Pair, Padding]:
    window = pair(window)
    strides = window if strides is None else pair(strides)
    sides = both_sides(padding)
    if ceil_mode:
        sides = tuple(
            _overhang(x.shape[1 + axis], window[axis], strides[axis], *sides[axis])
            for axis in range(2)
        )
    return window, strides, (sides[0], sides[1])


def _overhang(size, window, stride, low, high):
    """The padding on both sides with which a floor gives ceil_mode's output size."""
    count = -(-(size + low + high - window) // stride) + 1
    if (count - 1) * stride >= size + low:
        count -= 1
    return low, max(high, (count - 1) * stride + window - size - low)


def _full(window, strides, padding):
    return (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))


def _max_plain(window, strides, padding, x):
    return lax.reduce_window(x, -jnp.inf, lax.max, *_full(window, strides, padding))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_compares(window, strides, padding, x):
    return _max_plain(window, strides, padding, x)


def _max_forward(window, strides, padding, x):
    y = _max_plain(window, strides, padding, x)
    return y, (x, y)


def _max_backward(window, strides, padding, residuals, g):
    """Compare every tap of the windows with the maximum; the first hit takes g.

    The taps that land on the same pixel modulo the stride add up in one phase, and the
    phases interleave to the image: no scatter, no window is searched twice.
    """
    x, y = residuals
    out_h, out_w = y.shape[1:3]
    sh, sw = strides
    # Cells of stride x stride pixels that cover every window.
    cells_h = out_h + (window[0] - 1) // sh
    cells_w = out_w + (window[1] - 1) // sw
    ends = [
        (low, cells * s - low - size)
        for (low, _), cells, s, size in zip(
            padding, (cells_h, cells_w), strides, x.shape[1:3], strict=True
        )
    ]
    config = ((0, 0, 0), *((low, high, 0) for low, high in ends), (0, 0, 0))
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), config)
    phases = [[jnp.zeros((), g.dtype)] * sw for _ in range(sh)]
    free = jnp.ones(y.shape, bool)
    for i in range(window[0]):
        for j in range(window[1]):
            tap = padded[
                :, i : i + (out_h - 1) * sh + 1 : sh, j : j + (out_w - 1) * sw + 1 : sw
            ]
            hit = free & (tap == y)
            free = free & ~hit
            row, column = i // sh, j // sw
            shift = (
                (0, 0),
                (row, cells_h - out_h - row),
                (column, cells_w - out_w - column),
                (0, 0),
            )
            part = jnp.pad(jnp.where(hit, g, jnp.zeros((), g.dtype)), shift)
            phases[i % sh][j % sw] = phases[i % sh][j % sw] + part
    shape = (y.shape[0], cells_h, cells_w, y.shape[3])
    filled = [[jnp.broadcast_to(p, shape) for p in row] for row in phases]
    dx = jnp.stack([jnp.stack(row, 3) for row in filled], 2)
    dx = dx.reshape(shape[0], cells_h * sh, cells_w * sw, shape[3])
    back = ((0, 0, 0), *((-low, -high, 0) for low, high in ends), (0, 0, 0))
    return (lax.pad(dx, jnp.zeros((), g.dtype), back),)


_max_compares.defvjp(_max_forward, _max_backward)
