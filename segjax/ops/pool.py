"""Max and average pooling, and unpooling."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.ops import table
from segjax.ops.apart import apart
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
    if table.max_pool(platform) == "indexed":
        return _max_indexed(window, strides, sides, (x.shape[1], x.shape[2]), x)
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
    # NumPy's zero: with a traced one, JAX does not see a sum, and has no gradient.
    zero = np.zeros((), x.dtype)
    total = lax.reduce_window(x, zero, lax.add, *_full(window, strides, sides))
    counts = []
    for axis in range(2):
        low, high = given[axis] if count_padding else (0, 0)
        size = x.shape[1 + axis]
        begin = np.arange(total.shape[1 + axis]) * strides[axis] - sides[axis][0]
        end = np.minimum(begin + window[axis], size + high)
        counts.append(end - np.maximum(begin, -low))
    divisor = counts[0][:, None] * counts[1][None, :]
    return total / jnp.asarray(divisor, x.dtype)[None, :, :, None]


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Mean of x[B, H, W, C] over ``size`` windows, as torch.nn.AdaptiveAvgPool2d.

    Window i of n reaches from floor(i * H / n) to ceil((i + 1) * H / n); windows
    overlap where n does not divide H. Two products with constant matrices, summed in
    float32 or wider; the result [B, *size, C] has the dtype of ``x``.
    """
    if x.shape[1:3] == tuple(size):
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (
        jnp.asarray(_means(n, x.shape[1 + axis]), wide) for axis, n in enumerate(size)
    )
    # Full precision: TPUs would round the weights to bfloat16 otherwise.
    # Columns first: where devices share the rows, only bins are summed over them.
    y = jnp.einsum("pw,bhwc->bhpc", columns, x.astype(wide), precision="highest")
    return jnp.einsum("oh,bhpc->bopc", rows, y, precision="highest").astype(x.dtype)


def _means(out: int, size: int) -> np.ndarray:
    """float64[out, size]: row i takes the mean of the pixels of window i."""
    number, pixel = np.arange(out)[:, None], np.arange(size)[None, :]
    begin, end = number * size // out, -(-(number + 1) * size // out)
    return ((begin <= pixel) & (pixel < end)) / (end - begin)


def max_unpool(y: jax.Array, x: jax.Array, window: int = 2) -> jax.Array:
    """Put y[B, h, w, C] where max pooling of x[B, H, W, C] found its maxima, else 0.

    The pooling is without overlap or padding (strides = ``window``, h = H // window),
    and the first maximum of a window in row order counts. Returns [B, H, W, C]: what
    torch.nn.MaxUnpool2d makes of MaxPool2d's indices. No gradient goes to ``x``.
    """
    both, none = (window, window), ((0, 0), (0, 0))
    size = (x.shape[1], x.shape[2])
    _, first = _max_forward(both, both, none, size, lax.stop_gradient(x))
    # Unpooling is the transpose of picking the maxima: the pooling's backward pass.
    return _max_backward(both, both, none, size, first, y)[0]


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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _max_indexed(window, strides, padding, size, x):
    # XLA:CPU's own reduction over windows takes longer than the maxima of the taps.
    return apart(lambda x: _max_forward(window, strides, padding, size, x)[0], x)


def _max_forward(window, strides, padding, size, x):
    """The maximum of each window and the number of its first tap that holds it.

    The number is what the backward pass needs. Comparing x with the maximum there
    instead loses gradients: XLA may compute x anew, with another rounding.
    """
    (sh, sw), sides = strides, padding
    out_h, out_w = (
        (size[axis] + sum(sides[axis]) - window[axis]) // strides[axis] + 1
        for axis in range(2)
    )
    config = ((0, 0, 0), *((low, high, 0) for low, high in sides), (0, 0, 0))
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), config)
    shape = (x.shape[0], out_h, out_w, x.shape[3])
    best = jnp.full(shape, -jnp.inf, x.dtype)
    first = jnp.zeros(shape, jnp.uint8 if window[0] * window[1] < 256 else jnp.int32)
    for number, (i, j) in enumerate(np.ndindex(window)):
        tap = padded[
            :, i : i + (out_h - 1) * sh + 1 : sh, j : j + (out_w - 1) * sw + 1 : sw
        ]
        first = jnp.where(tap > best, jnp.asarray(number, first.dtype), first)
        best = jnp.maximum(best, tap)
    return best, first


def _max_backward(window, strides, padding, size, first, g):
    """Every tap takes the g of the windows whose maximum it is.

    The taps that land on the same pixel modulo the stride add up in one phase, and the
    phases interleave to the image: no scatter, no window is searched again.
    """
    out_h, out_w = g.shape[1:3]
    sh, sw = strides
    # Cells of stride x stride pixels that cover every window.
    cells_h = out_h + (window[0] - 1) // sh
    cells_w = out_w + (window[1] - 1) // sw
    zero = jnp.zeros((), g.dtype)
    phases = [[zero] * sw for _ in range(sh)]
    for number, (i, j) in enumerate(np.ndindex(window)):
        row, column = i // sh, j // sw
        shift = (
            (0, 0),
            (row, cells_h - out_h - row),
            (column, cells_w - out_w - column),
            (0, 0),
        )
        part = jnp.pad(jnp.where(first == number, g, zero), shift)
        phases[i % sh][j % sw] = phases[i % sh][j % sw] + part
    shape = (g.shape[0], cells_h, cells_w, g.shape[3])
    filled = [[jnp.broadcast_to(p, shape) for p in row] for row in phases]
    dx = jnp.stack([jnp.stack(row, 3) for row in filled], 2)
    dx = dx.reshape(shape[0], cells_h * sh, cells_w * sw, shape[3])
    # Off with the padding; rows that no window reaches come back as zeros.
    back = [
        (-low, n - (cells * s - low), 0)
        for (low, _), n, cells, s in zip(
            padding, size, (cells_h, cells_w), strides, strict=True
        )
    ]
    return (lax.pad(dx, zero, ((0, 0, 0), *back, (0, 0, 0))),)


def _max_forward_apart(window, strides, padding, size, x):
    return apart(partial(_max_forward, window, strides, padding, size), x)


def _max_backward_apart(window, strides, padding, size, first, g):
    return apart(partial(_max_backward, window, strides, padding, size), first, g)


_max_indexed.defvjp(_max_forward_apart, _max_backward_apart)
