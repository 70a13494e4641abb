"""The gradient of a convolution's kernel as one matrix product over pixels.

XLA:CPU's own filter gradient transposes both maps and runs far below the processor's
speed; a product over pixels reaches it, if few copies bring the shifted maps together.
Each function takes x[B, H, W, Ci], g[B, Ho, Wo, Co], the kernel's shape, strides,
padding and dilation, and returns [kh, kw, Ci, Co] in float32 or wider.
"""

import jax.numpy as jnp
from jax import lax


def over_pixels(x, g):
    """[C1, C2] = sum over batch and pixels of x[B, H, W, C1] g[B, H, W, C2]."""
    # Two dimensions only: XLA:CPU transposes the whole operand for more, which costs
    # as much as the product.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return lax.dot_general(
        x.reshape(-1, x.shape[3]),
        g.reshape(-1, g.shape[3]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=wide,
    )


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


FORMULATIONS = {"split": split, "gim": gim, "pairs": pairs, "taps": taps}
