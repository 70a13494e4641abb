"""Convolutions of narrow maps on a CPU: images side by side in one wide map.

XLA:CPU leaves float32 convolutions to YNNPACK, which cuts a convolution's work into
tiles of output columns by output channels and shares these among the cores: rows and
images are no part of it. A map that is one tile wide is computed by one core while the
others wait. Put beside each other, with the zeros of their padding between, images (and
halves of images) make one map that is several tiles wide; the products, and their sums,
are the same. ``benchmarks.speed.convolutions`` measures both.
"""

import os
from functools import cache

import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]
FLOPS = 60
"""Multiply-adds per number moved from which the copies are worth their time."""


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def tile(columns: int, channels: int, products: int) -> Pair:
    """YNNPACK's tile (columns, channels) of a map whose values sum ``products`` terms.

    From 16 x 64 it doubles, columns first until they are four times the channels, as
    long as it has fewer than 64 x 64 values or costs, edges times products, less than
    2^16. (Its rule, as of 2026; a wrong tile makes a convolution slower, never wrong.)
    """
    products = min(products, 1024)
    least = min(columns, 64) * min(channels, 64)
    m, n = min(columns, 16), min(channels, 64)
    while m * n < least or ((m + n) * products < 2**16 and m * n < 2**16):
        if n < channels and (4 * n <= m or m >= columns):
            n *= 2
        elif m < columns:
            m *= 2
        else:
            break
    return m, n


def busiest(workers: int, columns: int, channels: int, products: int) -> int:
    """The columns times channels that the busiest of so many cores computes per row."""
    m, n = tile(columns, channels, products)
    work = [0] * workers
    for width in _cut(columns, m):
        for depth in _cut(channels, n):
            work[work.index(min(work))] += width * depth
    return max(work)


def _cut(whole: int, part: int) -> list[int]:
    """``whole`` in parts, the last one the rest."""
    return [min(part, whole - at) for at in range(0, whole, part)]


@cache
def pieces(
    workers: int,
    images: int,
    size: Pair,
    kernel: tuple[int, ...],
    dilation: Pair = (1, 1),
) -> Pair:
    """How many images, and how many parts of each image's rows, to put side by side.

    ``size`` is the result's, ``kernel`` [kh, kw, Ci, Co]. (1, 1): none, where it would
    not leave the busiest core a quarter less to do, or copies cost more than they save.
    """
    kh, kw, c_in, c_out = kernel
    products = kh * kw * c_in
    rows, columns = size
    if workers == 1 or products * c_out < FLOPS * (c_in + c_out):
        return 1, 1
    best, found = 0.75 * busiest(workers, columns, c_out, products), (1, 1)
    for parts in (1, 2, 4):
        for count in range(1, min(images, 16) + 1):
            if images % count or rows % parts or (count, parts) == (1, 1):
                continue
            wide = count * parts * (columns + dilation[1] * (kw - 1))
            work = busiest(workers, wide, c_out, products) / (count * parts)
            if work < 0.95 * best:
                best, found = work, (count, parts)
    return found


def result_size(x, kernel, strides: Pair, padding, dilation: Pair) -> Pair:
    """(height, width) of the convolution of x[B, H, W, Ci] with kernel[kh, kw, .]."""
    height, width = (
        (x.shape[i + 1] + sum(padding[i]) - dilation[i] * (kernel.shape[i] - 1) - 1)
        // strides[i]
        + 1
        for i in (0, 1)
    )
    return height, width


def beside(x, kernel, strides: Pair, padding, dilation: Pair, count: int, parts: int):
    """The convolution (one group), ``count`` images by ``parts`` of rows at a time.

    x[B, H, W, Ci], kernel[kh, kw, Ci, Co]; ``padding`` ((top, bottom), (left, right));
    ``count`` divides B, ``parts`` the result's rows.
    """
    b, c_out = len(x), kernel.shape[3]
    reach = [dilation[i] * (kernel.shape[i] - 1) for i in (0, 1)]
    height, width = result_size(x, kernel, strides, padding, dilation)
    # Whole strides wide, so that each image's pixels are met as in a map of its own.
    spare = -(x.shape[2] + sum(padding[1])) % strides[1]
    left, right = padding[1]
    x = jnp.pad(x, ((0, 0), padding[0], (left, right + spare), (0, 0)))
    high, wide, channels = x.shape[1:]
    x = x.reshape(b // count, count, high, wide, channels).swapaxes(1, 2)
    step = height // parts * strides[0]
    slab = step - strides[0] + reach[0] + 1
    x = jnp.concatenate([x[:, i * step : i * step + slab] for i in range(parts)], 2)
    y = lax.conv_general_dilated(
        x.reshape(b // count, slab, parts * count * wide, channels),
        kernel,
        strides,
        ((0, 0), (0, reach[1])),
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = y.reshape(b // count, height // parts, parts, count, -1, c_out)
    y = y[:, :, :, :, :width].transpose(0, 3, 2, 1, 4, 5)
    return y.reshape(b, height, width, c_out)
