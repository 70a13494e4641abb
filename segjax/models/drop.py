"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Zero an example's whole residual branch with probability ``rate``.

    Stochastic depth (Huang et al. 2016); the rest is divided by ``1 - rate``. Draws
    from the key stream "dropout".
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, ...] -> the same, some examples zero."""
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)
