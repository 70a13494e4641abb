"""The gradient of a convolution's kernel as a matrix product over pixels.

XLA:CPU's own filter gradient transposes both maps and runs far below the processor's
speed; a product over pixels reaches it, if few copies bring the shifted maps together.
Each function takes x[B, H, W, Ci], g[B, Ho, Wo, Co], the kernel's shape, strides,
padding and dilation, and returns [kh, kw, Ci, Co] in float32 or wider.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from segjax.ops import winograd
from segjax.ops.beside import cores
from segjax.ops.products import divisor, over_pixels

BAND = 16
"""Rows at a time, at most: the copies of a band stay in the core's own cache."""


def narrow_first(x, g):
    """:func:`over_pixels`, with ``g``, of fewer channels, on the left: faster.

    16384 pixels of 256 and 64 channels, one core: 12 -> 7 ms.
    """
    # XLA would turn the product around again, but not across a barrier.
    return lax.optimization_barrier(over_pixels(g, x)).T


def split(x, g, shape, strides, padding, dilation):
    """Stride 1: (x at kw column shifts) times (g at kh row shifts)."""
    kh, kw, c_in, c_out = shape
    dh, dw = dilation
    width = g.shape[2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    columns = [x[:, :, j * dw : j * dw + width] for j in range(kw)]
    rows = [
        jnp.pad(g, ((0, 0), (i * dh, (kh - 1 - i) * dh), (0, 0), (0, 0)))
        for i in range(kh)
    ]
    product = over_pixels(jnp.concatenate(columns, 3), jnp.concatenate(rows, 3))
    return product.reshape(kw, c_in, kh, c_out).transpose(2, 0, 1, 3)


def gim(x, g, shape, strides, padding, dilation):
    """Stride 1: x times (g at all kh x kw shifts); for few outputs."""
    kh, kw, c_in, c_out = shape
    shifted = [
        _moved(
            g, x.shape, i * dilation[0] - padding[0][0], j * dilation[1] - padding[1][0]
        )
        for i in range(kh)
        for j in range(kw)
    ]
    product = over_pixels(x, jnp.concatenate(shifted, 3))
    return product.reshape(c_in, kh, kw, c_out).transpose(1, 2, 0, 3)


def _moved(g, shape, top, left):
    """``g`` moved down and right onto a map of x's shape; zeros where it is not."""
    bottom, right = shape[1] - top - g.shape[1], shape[2] - left - g.shape[2]
    config = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    return lax.pad(g, jnp.zeros((), g.dtype), config)


def pairs(x, g, shape, strides, padding, dilation):
    """3x3, stride 1, padding 1, even width: two neighbours in a row share a product.

    [B, H, W, C] is [B, H, W/2, 2C] without a copy. The product of the pairs (a, b) of x
    and of g holds, in its four blocks, the taps at column shift 0 (a a, b b), -1 (a b)
    and 1 (b a); what lies across the pairs' border comes from half of the pixels. Only
    g is copied, at its three row shifts.
    """
    c_in, c_out = shape[2:]
    rows = jnp.concatenate([_moved(g, x.shape, i - 1, 0) for i in range(3)], 3)
    batch, height, width, c_rows = rows.shape
    paired = (batch, height, width // 2)
    product = over_pixels(
        x.reshape(*paired, 2 * c_in), rows.reshape(*paired, 2 * c_rows)
    ).reshape(2, c_in, 2, c_rows)
    before = over_pixels(x[:, :, 1:-1:2], rows[:, :, 2::2]) + product[0, :, 1]
    after = over_pixels(x[:, :, 2::2], rows[:, :, 1:-1:2]) + product[1, :, 0]
    columns = jnp.stack([before, product[0, :, 0] + product[1, :, 1], after])
    return columns.reshape(3, c_in, 3, c_out).transpose(2, 0, 1, 3)


def taps(x, g, shape, strides, padding, dilation):
    """Any stride: (the pixels of x that each tap sees) times g."""
    kh, kw = shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    seen = []
    for i in range(kh):
        for j in range(kw):
            begin = (i * dilation[0], j * dilation[1])
            rows, columns = (
                slice(at, at + (n - 1) * s + 1, s)
                for at, n, s in zip(begin, g.shape[1:3], strides, strict=True)
            )
            seen.append(x[:, rows, columns])
    return over_pixels(jnp.concatenate(seen, 3), g).reshape(shape)


def windows(x, g, shape, strides, padding, dilation):
    """Dilation 1, few channels in: two neighbours in a row of ``g`` share a product.

    The columns of x that both see lie side by side in memory; a product per row of the
    kernel, as no copy brings rows together.
    """
    kh, kw, c_in, c_out = shape
    (sh, sw), (height, width), pair = strides, g.shape[1:3], 2
    seen = (sw * (pair - 1) + kw) * c_in  # values of a row that a pair sees
    step = pair * sw * c_in
    count, blocks = width // pair, -(-seen // step)
    wide, high = (count + blocks - 1) * pair * sw, (height + -(-kh // sh) - 1) * sh
    config = (
        (0, 0, 0),
        (padding[0][0], high - x.shape[1] - padding[0][0], 0),
        (padding[1][0], wide - x.shape[2] - padding[1][0], 0),
        (0, 0, 0),
    )
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    x = x.reshape(len(x), high // sh, sh, wide // (pair * sw), step)
    x = jnp.concatenate(
        [x[:, :, :, t : t + count, : seen - t * step] for t in range(blocks)], 4
    )
    paired = g.reshape(len(g), height, count, pair * c_out)
    rows = [x[:, i // sh : i // sh + height, i % sh] for i in range(kh)]
    product = jnp.stack([_by_image(row, paired).sum(0) for row in rows])
    product = product.reshape(kh, seen // c_in, c_in, pair, c_out)
    parts = [product[:, b * sw : b * sw + kw, :, b] for b in range(pair)]
    return sum(parts[1:], parts[0])


def _by_image(x, g):
    """[B, C1, C2]: :func:`over_pixels` of each image; faster where channels are few."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return lax.dot_general(
        x.reshape(len(x), -1, x.shape[3]),
        g.reshape(len(g), -1, g.shape[3]),
        (((1,), (1,)), ((0,), (0,))),
        preferred_element_type=wide,
    )


def in_bands(move_x, x, g, shape, strides, padding, dilation):
    """Stride 1: :func:`split` or :func:`gim` on bands of rows, a core each, added up.

    What is brought together is then written to the cache and read from there. The
    columns of x are shifted, and the rows of g, or all of g (``move_x``: the first).
    For one device: a band of images that several share would be gathered.
    """
    (kh, kw, c_in, c_out), (dh, dw) = shape, dilation
    height, width = x.shape[1:3]
    reach = [dh * (kh - 1), dw * (kw - 1)]
    rows = band(height)
    bands = len(x) * (height // rows)
    at_once = divisor(bands, max(2, cores()))
    # Row q of x meets rows q + padding - i * dh of g, columns alike.
    config = [(0, 0, 0)] * 4
    for axis in (0,) if move_x else (0, 1):
        low = reach[axis] - padding[axis][0]
        high = x.shape[axis + 1] + reach[axis] - low - g.shape[axis + 1]
        config[axis + 1] = (low, high, 0)
    g = lax.pad(g, jnp.zeros((), g.dtype), config)

    def bands_of(x, number, rows_of_one):
        """So many bands, far from each other, side by side in a copy of their own."""
        found = []
        for index in (number + i * (bands // at_once) for i in range(at_once)):
            image, row = index // (height // rows), index % (height // rows) * rows
            size = (1, rows_of_one, *x.shape[2:])
            found.append(lax.dynamic_slice(x, (image, row, 0, 0), size))
        return jnp.concatenate(found)

    def shifted(x, axis, size, begins):
        return [lax.slice_in_dim(x, b, b + size, axis=axis) for b in begins]

    def add(number, total):
        part, seen = bands_of(x, number, rows), bands_of(g, number, rows + reach[0])
        moved = shifted(seen, 1, rows, [reach[0] - i * dh for i in range(kh)])
        if move_x:
            part = jnp.pad(part, ((0, 0), (0, 0), padding[1], (0, 0)))
            columns = shifted(part, 2, g.shape[2], [j * dw for j in range(kw)])
            part = jnp.concatenate(columns, 3)
        else:
            begins = [reach[1] - j * dw for j in range(kw)]
            moved = [m for row in moved for m in shifted(row, 2, width, begins)]
        moved = jnp.concatenate(moved, 3)
        return total + (_by_image(moved, part) if turned else _by_image(part, moved))

    moving = (kw * c_in, kh * c_out) if move_x else (c_in, kh * kw * c_out)
    turned = moving[0] > moving[1]  # as in narrow_first
    wide = jnp.promote_types(x.dtype, jnp.float32)
    start = jnp.zeros((at_once, *(moving[::-1] if turned else moving)), wide)
    total = lax.fori_loop(0, bands // at_once, add, start).sum(0)
    total = total.T if turned else total
    if move_x:
        return total.reshape(kw, c_in, kh, c_out).transpose(2, 0, 1, 3)
    return total.reshape(c_in, kh, kw, c_out).transpose(1, 2, 0, 3)


def band(height):
    """The most rows, up to BAND, that divide a map's height."""
    return divisor(height, BAND)


FORMULATIONS = {
    "split": split,
    "gim": gim,
    "pairs": pairs,
    "taps": taps,
    "windows": windows,
    "winograd": winograd.filter_gradient,
    "split in bands": partial(in_bands, True),
    "gim in bands": partial(in_bands, False),
}
