"""Crops that are brought to one size: their sides, and the map of an axis."""

import jax
import jax.numpy as jnp


def sides_of_area(size: jax.Array, share: jax.Array, aspect: jax.Array) -> jax.Array:
    """f32[B, 2]: height and width of the crop of that share of the image's area.

    ``size`` i32[B, 2]; ``aspect`` f[B] is width / height. A side longer than the
    image's is cut to it.
    """
    whole = size.astype(jnp.float32)
    area = share * whole[:, 0] * whole[:, 1]
    sides = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], 1)
    return jnp.clip(sides, 1, whole)


def sides_of_scale(
    size: jax.Array, target: jax.Array, out_size: tuple[int, int]
) -> jax.Array:
    """f32[B, 2]: the crop of ``out_size`` from an image of shorter side ``target``.

    In pixels of the image of ``size`` i32[B, 2]; the largest that fits where the image,
    scaled so, would be smaller than the crop.
    """
    whole, out = size.astype(jnp.float32), jnp.asarray(out_size, jnp.float32)[None, :]
    factor = jnp.minimum(jnp.min(whole, 1) / target, jnp.min(whole / out, 1))
    return jnp.clip(factor[:, None] * out, 1, whole)


def line_map(size, side, at, flip, out: int, dtype):
    """(start, step) f[B] from an output pixel to the source, along one axis.

    ``side`` f[B] of ``size`` i32[B] pixels become ``out``; ``at`` f[B] in [0, 1] is
    where between the first and the last place the crop lies, ``flip`` bool[B] mirrors.
    """
    side = side.astype(dtype)
    step = side / out
    start = at * (size.astype(dtype) - side) + 0.5 * step - 0.5
    start = start.astype(dtype)
    start = jnp.where(flip, start + (out - 1) * step, start)
    return start, jnp.where(flip, -step, step)
