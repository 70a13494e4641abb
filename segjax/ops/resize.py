"""Resizing feature maps to static sizes, without gathers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def upsample_nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Repeat every pixel of x[B, H, W, C] ``factor`` x ``factor`` times."""
    b, h, w, c = x.shape
    # Broadcast and reshape: the backward pass is a plain sum (jax.image.resize: 7x
    # slower on CPU).
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


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
    for axis, out in zip((1, 2), size, strict=True):
        x = jnp.take(x, np.arange(out) * x.shape[axis] // out, axis=axis)
    return x


def _bilinear_matrix(out: int, size: int, align_corners: bool) -> np.ndarray:
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
    x: jax.Array, size: tuple[int, int], *, align_corners: bool
) -> jax.Array:
    """Resize x[B, H, W, C] to [B, *size, C] as torch's interpolate(mode="bilinear").

    Two matrix products with constant matrices; no antialiasing when shrinking. Sums
    run in float32 or wider; the result has the dtype of ``x``.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows = _bilinear_matrix(size[0], x.shape[1], align_corners)
    columns = _bilinear_matrix(size[1], x.shape[2], align_corners)
    return _by_matrices(x, rows, columns)


def _by_matrices(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """x[B, H, W, C], rows[O, H], columns[P, W] -> [B, O, P, C]."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    # Full precision: TPUs would round the weights to bfloat16 otherwise.
    y = jnp.einsum(
        "oh,bhwc->bowc",
        jnp.asarray(rows, wide),
        x.astype(wide),
        precision=lax.Precision.HIGHEST,
    )
    y = jnp.einsum(
        "pw,bowc->bopc", jnp.asarray(columns, wide), y, precision=lax.Precision.HIGHEST
    )
    return y.astype(x.dtype)
