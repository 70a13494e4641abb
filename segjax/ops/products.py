"""Products of maps over their pixels, and how a map falls into equal parts."""

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


def divisor(n, most):
    """The largest divisor of n, ``most`` at most."""
    return next(m for m in range(max(min(n, most), 1), 0, -1) if n % m == 0)
