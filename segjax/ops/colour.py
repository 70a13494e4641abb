"""Colours of images in [0, 1]: luma, and turning the hue."""

import jax
import jax.numpy as jnp

_GRAY = (0.2989, 0.587, 0.114)


def gray(x: jax.Array) -> jax.Array:
    """Luma of RGB (torchvision's weights), else the mean of the channels: [.., 1]."""
    if x.shape[-1] != 3:
        return x.mean(-1, keepdims=True)
    return (x * jnp.asarray(_GRAY, x.dtype)[None, None, None]).sum(-1, keepdims=True)


def shift_hue(x: jax.Array, shift: jax.Array) -> jax.Array:
    """Turn the hue of RGB ``x`` [B, H, W, 3] by ``shift`` [B, 1, 1, 1] turns.

    The same as through HSV and back: value and chroma stay, only the hue turns.
    """
    top, low = x.max(-1), x.min(-1)
    chroma = top - low
    safe = jnp.where(chroma > 0, chroma, 1)
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    # Not by which equals `top`: a compiler that computes x twice may round it otherwise
    # there, and then none would. Where two are alike both branches have one hue.
    hue = jnp.where(
        (r >= g) & (r >= b),
        (g - b) / safe,
        jnp.where(g >= b, 2 + (b - r) / safe, 4 + (r - g) / safe),
    )
    hue = hue + 6 * shift[..., 0]
    # Smith 1978: each channel is value - chroma * clip(min(k, 4 - k), 0, 1).
    k = (jnp.asarray([5.0, 3.0, 1.0], x.dtype)[None, None, None] + hue[..., None]) % 6
    return top[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def value_range(image: jax.Array):
    """(low, high) of an image's values, [] or [B, 1, 1, 1]: 0 and 1, or beyond."""
    if jnp.issubdtype(image.dtype, jnp.integer):
        return 0, 1
    # float32 is taken as it is: reflectances of thousands would all become 1.
    return (
        jnp.minimum(image.min((1, 2, 3), keepdims=True), 0),
        jnp.maximum(image.max((1, 2, 3), keepdims=True), 1),
    )
