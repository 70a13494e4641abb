"""Resizing feature maps to static sizes, without gathers."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.ops import table
from segjax.ops.apart import apart
from segjax.ops.shift import shift


def upsample_nearest(x: jax.Array, factor: int | tuple[int, int] = 2) -> jax.Array:
    """Repeat every pixel of x[B, H, W, C] ``factor`` times, or (rows, columns)."""
    b, h, w, c = x.shape
    i, j = (factor, factor) if isinstance(factor, int) else factor
    # Broadcast and reshape: the backward pass is a plain sum (jax.image.resize: 7x
    # slower on CPU).
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, i, w, j, c))
    return x.reshape(b, h * i, w * j, c)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize x[B, H, W, C] to [B, *size, C]: out[o] = x[floor(o * in / out)].

    That is torch.nn.functional.interpolate(mode="nearest").
    """
    height, width = x.shape[1:3]
    if (height, width) == tuple(size):
        return x
    if all(o in (2 * i, 2 * i - 1) for o, i in zip(size, (height, width), strict=True)):
        # floor(o * n / (2n - 1)) = o // 2 for all o < 2n - 1: upsample, then crop.
        return upsample_nearest(x)[:, : size[0], : size[1]]
    if size[0] % height == 0 and size[1] % width == 0:
        return upsample_nearest(x, (size[0] // height, size[1] // width))
    for axis, out in zip((1, 2), size, strict=True):
        x = jnp.take(x, np.arange(out) * x.shape[axis] // out, axis=axis)
    return x


def bilinear_matrix(out: int, size: int, align_corners: bool) -> np.ndarray:
    """float64[out, size]: the weights of linear interpolation, clamped at the ends."""
    if align_corners:
        at = np.arange(out) * ((size - 1) / max(out - 1, 1))
    else:
        at = np.clip((np.arange(out) + 0.5) * (size / out) - 0.5, 0, size - 1)
    distance = np.abs(at[:, None] - np.arange(size)[None, :])
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) at distances in pixels."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _bicubic_matrix(out: int, size: int, antialias: bool) -> np.ndarray:
    """float64[out, size]: torch's weights of cubic interpolation.

    Taps beyond the edge repeat it; with ``antialias`` they are left out, and the
    kernel is as wide as the output's pixels where these are the larger ones.
    """
    at = (np.arange(out) + 0.5) * (size / out) - 0.5
    if antialias:
        distance = at[:, None] - np.arange(size)[None, :]
        weights = _cubic(distance / max(size / out, 1), -0.5)
        return weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((out, size))
    for tap in range(-1, 3):
        pixel = np.floor(at).astype(int) + tap
        weight = _cubic(at - pixel, -0.75)
        np.add.at(matrix, (np.arange(out), np.clip(pixel, 0, size - 1)), weight)
    return matrix


def resize_bicubic(
    x: jax.Array, size: tuple[int, int], *, antialias: bool
) -> jax.Array:
    """Resize x[B, H, W, C] to [B, *size, C] as torch's interpolate(mode="bicubic").

    align_corners=False; torch takes a = -0.75, but -0.5 with antialias.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows = _bicubic_matrix(size[0], x.shape[1], antialias)
    columns = _bicubic_matrix(size[1], x.shape[2], antialias)
    return _by_matrices(x, rows, columns)


def resize_bilinear(
    x: jax.Array,
    size: tuple[int, int],
    *,
    align_corners: bool,
    platform: str | None = None,
    spatial: int = 1,
) -> jax.Array:
    """Resize x[B, H, W, C] to [B, *size, C] as torch's interpolate(mode="bilinear").

    Two matrix products with constant matrices, or what :mod:`segjax.ops.table` has
    instead; no antialiasing when shrinking. Sums run in float32 or wider; the result
    has the dtype of ``x``.

    ``spatial`` is the number of devices over which rows are split. Then, by a whole
    factor and without ``align_corners``, a device asks its neighbours for one row each;
    any other resizing of rows gathers them (the matrix is not of neighbours only).
    Differentiable in reverse mode; forward mode needs ``platform`` None.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[1], x.shape[2], x.shape[3])
    chosen = table.resize(platform, spatial, shape, size, align_corners)
    if chosen == "transposed":
        return _transposed(x, (size[0] // shape[0], size[1] // shape[1]))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if chosen == "neighbours":
        y = _by_neighbours(tuple(size), shape[:2], align_corners, wide)
        return jnp.asarray(y, x.dtype)
    columns = bilinear_matrix(size[1], x.shape[2], align_corners)
    if chosen == "taps":
        return _columns(_rows_by_taps(wide, size[0]), columns).astype(x.dtype)
    rows = bilinear_matrix(size[0], x.shape[1], align_corners)
    return _by_matrices(x, rows, columns)


def _transposed(x: jax.Array, factors: tuple[int, int]) -> jax.Array:
    """By whole factors: every pixel is spread as a triangle, a depthwise convolution.

    The triangle's weights are multiples of 1 / (2 f), exact in bfloat16 where f is a
    power of 2. Edges repeat: the map is padded by one pixel, which lies outside.
    """
    triangles, padding = [], []
    for axis, f in enumerate(factors):
        at = np.arange(-f, 2 * f)
        weight = np.maximum(1 - np.abs((at + 0.5) / f - 0.5), 0)
        at, weight = at[weight > 0], weight[weight > 0]
        out = f * x.shape[1 + axis]
        low = int(at[-1]) - f
        dilated = f * (x.shape[1 + axis] + 1) + 1
        padding.append((low, out - 1 + len(at) - dilated - low))
        triangles.append(weight)
    channels = x.shape[3]
    kernel = np.outer(*triangles)[:, :, None, None]
    return lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"),
        jnp.asarray(np.broadcast_to(kernel, (*kernel.shape[:3], channels)), x.dtype),
        (1, 1),
        padding,
        lhs_dilation=factors,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        # Full precision: as for the columns.
        precision=lax.Precision.HIGHEST,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _by_neighbours(
    size: tuple[int, int], source: tuple[int, int], align_corners: bool, x: jax.Array
) -> jax.Array:
    """By whole factors: a pixel mixes the one that it lies in with its neighbours.

    Multiply-adds that XLA:CPU fuses into one pass, where products with matrices copy
    the map for each axis. Apart: what reads the result reads a pixel more than once.
    """
    rows, columns = _weights_of_axes(size, source, align_corners)
    return apart(lambda x: _spread(_spread(x, rows, 1), columns, 2), x)


def _by_neighbours_backward(size, source, align_corners, _, g):
    rows, columns = _weights_of_axes(size, source, align_corners)
    return (apart(lambda g: _collect(_collect(g, columns, 2), rows, 1), g),)


_by_neighbours.defvjp(
    lambda size, source, align_corners, x: (
        _by_neighbours(size, source, align_corners, x),
        None,
    ),
    _by_neighbours_backward,
)


def _weights_of_axes(size, source, align_corners):
    """:func:`_three_weights` of rows and of columns."""
    axes = zip(size, source, strict=True)
    return [_three_weights(out, n, align_corners) for out, n in axes]


def _three_weights(out: int, size: int, align_corners: bool) -> np.ndarray:
    """float64[size, f, 3]: those of pixels i - 1, i and i + 1 in output f * i + p."""
    matrix = np.pad(bilinear_matrix(out, size, align_corners), ((0, 0), (1, 1)))
    at, nearest = np.arange(out), np.arange(out) * size // out
    weights = np.stack([matrix[at, nearest + t] for t in range(3)], 1)
    return weights.reshape(size, out // size, 3)


def _spread(x, weights, axis):
    """``axis`` of x becomes f times as long."""
    beside = [1] * (x.ndim + 1)
    beside[axis : axis + 2] = weights.shape[:2]
    terms = (
        jnp.expand_dims(shift(x, 1 - t, axis), axis + 1)
        * jnp.asarray(weights[:, :, t], x.dtype).reshape(beside)
        for t in range(3)
    )
    y = reduce(jnp.add, terms)
    return y.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _collect(g, weights, axis):
    """The pull-back of :func:`_spread`."""
    size, factor = weights.shape[:2]
    g = g.reshape(*g.shape[:axis], size, factor, *g.shape[axis + 1 :])
    beside = [1] * (g.ndim - 1)
    beside[axis] = size
    sums = []
    for t in range(3):
        terms = [
            lax.index_in_dim(g, p, axis + 1, keepdims=False)
            * jnp.asarray(weights[:, p, t], g.dtype).reshape(beside)
            for p in range(factor)
            if weights[:, p, t].any()
        ]
        if terms:
            sums.append(shift(reduce(jnp.add, terms), t - 1, axis))
    return reduce(jnp.add, sums)


def _rows_by_taps(x: jax.Array, out: int) -> jax.Array:
    """x[B, H, W, C] -> [B, out, W, C], ``out`` a multiple of H; x is float32 or wider.

    Output row f * i + p lies (p + 0.5) / f - 0.5 rows below row i: every phase p mixes
    row i with one neighbour by weights of its own, the edges with themselves.
    """
    b, height, width, c = x.shape
    factor = out // height
    row = jnp.arange(height)[None, :, None, None]
    above = jnp.where(row == 0, x, shift(x, 1, 1))
    below = jnp.where(row == height - 1, x, shift(x, -1, 1))
    phases = []
    for p in range(factor):
        below_by = (p + 0.5) / factor - 0.5
        other = below if below_by > 0 else above
        phases.append((1 - abs(below_by)) * x + abs(below_by) * other)
    return jnp.stack(phases, 2).reshape(b, out, width, c)


def _columns(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """x[B, H, W, C], matrix[P, W] -> [B, H, P, C]; x is float32 or wider."""
    # Full precision: TPUs would round the weights to bfloat16 otherwise.
    return jnp.einsum(
        "pw,bhwc->bhpc",
        jnp.asarray(matrix, x.dtype),
        x,
        precision=lax.Precision.HIGHEST,
    )


def _by_matrices(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """x[B, H, W, C], rows[O, H], columns[P, W] -> [B, O, P, C]."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    # Full precision: as for the columns.
    y = jnp.einsum(
        "oh,bhwc->bowc",
        jnp.asarray(rows, wide),
        x.astype(wide),
        precision=lax.Precision.HIGHEST,
    )
    return _columns(y, columns).astype(x.dtype)
