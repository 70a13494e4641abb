"""A computation that XLA:CPU fuses with nothing around it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def apart(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function(*arrays)``, of trees, computed once, operands and results stored.

    XLA:CPU likes to compute a map anew inside everything that reads it, also where
    one pixel is read many times: a max pool's search for its maxima ran within both of
    the passes of the batch norm's backward pass before it (4 x 128x128 x 64, pool and
    norm: 82 ms of one core, so 25). An optimization barrier is gone before fusion, but
    the branch of a condition is a program of its own. The condition, which XLA cannot
    know, is that the first float has not all bits set, as no number and no NaN that is
    computed has; the other branch gives NaN.
    """
    leaves = jax.tree.leaves(arrays)
    leaf = next(a for a in leaves if jnp.issubdtype(a.dtype, jnp.floating))
    if leaf.size == 0:
        return function(*arrays)
    word = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    bits = lax.bitcast_convert_type(leaf[(0,) * leaf.ndim], word)
    shapes = jax.eval_shape(function, *arrays)

    def fill(*_):
        def one(shape):
            real = jnp.issubdtype(shape.dtype, jnp.floating)
            return jnp.full(shape.shape, jnp.nan if real else 0, shape.dtype)

        return jax.tree.map(one, shapes)

    return lax.cond(bits != word.type(jnp.iinfo(word).max), function, fill, *arrays)
