"""Sampling arrays along coordinate maps: resizing by products, warping by gathers.

Coordinates are those of pixel centres: pixel ``i`` lies at ``i`` and covers
``[i - 0.5, i + 0.5)``. Order 1 is bilinear (for images and logits), order 0 takes the
nearest pixel (for labels).

A map that treats rows and columns apart (scale, crop, flip, resize) is two small matrix
products per example, which TPUs do far faster than gathers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# An image or a logit is not to be rounded to bfloat16 on its way through a product.
_EXACT = lax.Precision.HIGHEST


def interpolation_matrix(
    out_size: int,
    in_size: int,
    *,
    start: jax.Array | float,
    step: jax.Array | float,
    valid: jax.Array | int,
    order: int,
    dtype: jnp.dtype | type = jnp.float32,
) -> jax.Array:
    """The matrix float[out_size, in_size] that samples a line of pixels.

    Row ``o`` takes the value at the coordinate ``start + step * o`` of a line whose
    first ``valid`` pixels count. ``start``, ``step`` and ``valid`` may be traced
    scalars. Order 1 interpolates linearly, the outermost half pixel being constant
    (PyTorch's ``align_corners=False``); order 0 is one-hot. Rows whose coordinate lies
    outside ``[-0.5, valid - 0.5)`` are zero.
    """
    at = start + step * jnp.arange(out_size, dtype=dtype)
    pixel = jnp.arange(in_size, dtype=dtype)
    if order == 0:
        # Half-open on both sides, so every coordinate inside has exactly one pixel.
        distance = at[:, None] - pixel[None, :]
        weights = ((distance >= -0.5) & (distance < 0.5)).astype(dtype)
        return weights * (pixel < valid).astype(dtype)[None, :]
    clamped = jnp.clip(at, 0, jnp.maximum(jnp.asarray(valid, dtype) - 1, 0))
    weights = jnp.maximum(1 - jnp.abs(clamped[:, None] - pixel[None, :]), 0)
    return weights * inside(at, valid).astype(dtype)[:, None]


def inside(coordinate: jax.Array, valid: jax.Array | int) -> jax.Array:
    """bool: the coordinate lies on one of the first ``valid`` pixels (any shape)."""
    return (coordinate >= -0.5) & (coordinate < jnp.asarray(valid) - 0.5)


def resize_map(
    in_size: jax.Array | int, out_size: jax.Array | int, dtype=jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """(start, step) that resize ``in_size`` pixels to ``out_size`` (half-pixel)."""
    step = jnp.asarray(in_size, dtype) / jnp.asarray(out_size, dtype)
    return 0.5 * step - 0.5, step


def sample_separable(
    x: jax.Array, rows: jax.Array, columns: jax.Array, precision=_EXACT
) -> jax.Array:
    """Apply ``rows`` f[B, h, H] and ``columns`` f[B, w, W] to ``x`` [B, H, W, C].

    Returns f[B, h, w, C] in the matrices' dtype. ``precision`` matters to TPUs only.
    """
    product = functools.partial(jnp.einsum, precision=precision)
    x = x.astype(rows.dtype)
    # Shrink first what shrinks more: the second product then has less to do.
    if rows.shape[1] * x.shape[2] <= x.shape[1] * columns.shape[1]:
        return product("bwW,bhWc->bhwc", columns, product("bhH,bHWc->bhWc", rows, x))
    return product("bhH,bHwc->bhwc", rows, product("bwW,bHWc->bHwc", columns, x))


class Lines(NamedTuple):
    """What :func:`interpolation_matrix` says, per output pixel: [B, out] each.

    ``low`` and ``high`` i32 are the two pixels that order 1 mixes, ``weight`` f the
    share of ``high``, ``inside`` bool where that is not zero altogether; ``nearest``
    i32 is the pixel of order 0 and ``found`` bool whether there is one.
    """

    low: jax.Array
    high: jax.Array
    weight: jax.Array
    inside: jax.Array
    nearest: jax.Array
    found: jax.Array


def line_samples(
    out_sizes: tuple[int, int],
    in_sizes: tuple[int, int],
    start: jax.Array,
    step: jax.Array,
    valid: jax.Array,
    dtype: jnp.dtype | type = jnp.float32,
) -> tuple[Lines, Lines]:
    """The rows of :func:`interpolation_matrix` as indices, of rows and of columns.

    ``start``, ``step`` and ``valid`` are [2, B], first those of the rows.
    """

    def one(axis):
        start, step, valid, in_size = axis
        places = jnp.arange(max(out_sizes), dtype=dtype)[None]
        at = start[:, None] + step[:, None] * places
        valid = valid.astype(dtype)[:, None]
        clamped = jnp.clip(at, 0, jnp.maximum(valid - 1, 0))
        low = jnp.floor(clamped)
        nearest = jnp.floor(at + 0.5)
        # The sum may have been rounded up to the next pixel; its border is exact.
        nearest = nearest - (at < nearest - 0.5)
        found = (nearest >= 0) & (nearest < valid)

        def index(pixel):
            return jnp.clip(pixel.astype(jnp.int32), 0, in_size - 1)

        weight = (clamped - low).astype(dtype)
        keep = inside(at, valid)
        return Lines(index(low), index(low + 1), weight, keep, index(nearest), found)

    # A loop, because XLA keeps its results, where it would compute them anew for each
    # pixel and use: slow, and with other rounding ``weight`` may not belong to ``low``.
    lines = lax.map(one, (start, step, valid, jnp.asarray(in_sizes)))
    rows, columns = (
        Lines(*(array[axis, :, : out_sizes[axis]] for array in lines))
        for axis in range(2)
    )
    return rows, columns


def _take(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """``x`` [B, ...] at ``index`` i32[B, out] along an axis."""
    return jax.vmap(functools.partial(jnp.take, axis=axis - 1, mode="clip"))(x, index)


def gather_separable(x: jax.Array, rows: Lines, columns: Lines) -> jax.Array:
    """:func:`sample_separable` by gathers: [B, H, W, C] of any type to f[B, h, w, C].

    Columns first: then bytes are gathered, a quarter of what floats are.
    """
    dtype = rows.weight.dtype

    def mix(x, lines, axis, shape):
        low, high = (_take(x, i, axis).astype(dtype) for i in (lines.low, lines.high))
        weight = lines.weight.reshape(shape)
        return low * (1 - weight) + high * weight

    batch = x.shape[0]
    wide = mix(x, columns, 2, (batch, 1, -1, 1))
    found = mix(wide, rows, 1, (batch, -1, 1, 1))
    keep = rows.inside[:, :, None] & columns.inside[:, None, :]
    return jnp.where(keep[..., None], found, 0)


def gather_nearest(
    label: jax.Array, rows: Lines, columns: Lines
) -> tuple[jax.Array, jax.Array]:
    """Order 0 of ``label`` [B, H, W]: ([B, h, w], bool of where there is a pixel)."""
    found = _take(_take(label, columns.nearest, 2), rows.nearest, 1)
    return found, rows.found[:, :, None] & columns.found[:, None, :]


def sample_at(x: jax.Array, y: jax.Array, x_at: jax.Array, size, order: int):
    """Gather ``x`` [H, W, C] at coordinates ``y``, ``x_at`` f[h, w] (one example).

    The general, slower way, for maps that are not separable (rotation). Returns
    [h, w, C]; coordinates outside the valid area ``size`` i32[2] give zeros.
    """
    height, width, channels = x.shape
    flat = x.reshape(height * width, channels)

    def take(row, column):
        index = row.astype(jnp.int32) * width + column.astype(jnp.int32)
        return flat[index.reshape(-1)].reshape(*index.shape, channels)

    keep = (inside(y, size[0]) & inside(x_at, size[1]))[..., None]
    top, left = (jnp.asarray(size[i] - 1, y.dtype) for i in (0, 1))
    if order == 0:
        row, column = (
            jnp.clip(jnp.floor(c + 0.5), 0, m) for c, m in ((y, top), (x_at, left))
        )
        return jnp.where(keep, take(row, column), 0)
    y, x_at = jnp.clip(y, 0, top), jnp.clip(x_at, 0, left)
    row, column = jnp.floor(y), jnp.floor(x_at)
    below, right = jnp.minimum(row + 1, top), jnp.minimum(column + 1, left)
    down, along = (y - row)[..., None], (x_at - column)[..., None]
    upper = take(row, column) * (1 - along) + take(row, right) * along
    lower = take(below, column) * (1 - along) + take(below, right) * along
    return jnp.where(keep, upper * (1 - down) + lower * down, 0)


def _resize_matrices(size, label_size, in_shape, out_shape, dtype):
    """One matrix per example and axis: f[B, Hl, H] and f[B, Wl, W]."""

    def matrix(axis):
        def one(valid, out_valid):
            start, step = resize_map(valid, out_valid, dtype)
            return interpolation_matrix(
                out_shape[axis],
                in_shape[axis],
                start=start,
                step=step,
                valid=valid,
                order=1,
                dtype=dtype,
            )

        return jax.vmap(one)(size[:, axis], label_size[:, axis])

    return matrix(0), matrix(1)


def resize_logits(
    logits: jax.Array,
    size: jax.Array,
    label_size: jax.Array,
    label_shape: tuple[int, int],
) -> jax.Array:
    """Resize each example's valid area of ``logits`` to its own label's size.

    Bilinear with ``align_corners=False`` and no antialiasing, as
    ``torch.nn.functional.interpolate``. ``logits`` f[B, H, W, K] are valid in their top
    left ``size`` i32[B, 2]; the result f[B, Hl, Wl, K], ``(Hl, Wl) = label_shape``, is
    valid in ``label_size`` i32[B, 2] and zero outside.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    rows, columns = _resize_matrices(
        size, label_size, logits.shape[1:3], label_shape, dtype
    )
    return sample_separable(logits, rows, columns)
