"""Multi-head attention (Vaswani et al. 2017)."""

import jax
import jax.numpy as jnp


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    heads: int,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(D) + bias) v in each head, a slice of D = C/heads channels.

    query[B, N, C], key and value[B, M, C], bias[B or 1, heads, N, M] -> [B, N, C] in
    the dtype of ``value``. Scores and softmax are float32 or wider.
    """
    query, key, value = (
        x.reshape(*x.shape[:2], heads, x.shape[2] // heads) for x in (query, key, value)
    )
    wide, scale = jnp.promote_types(query.dtype, jnp.float32), query.shape[3] ** -0.5
    narrow = query.dtype != wide
    if not narrow:  # a narrower query would round it
        query = query * scale
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=wide)
    if narrow:
        scores = scores * scale
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1)
    y = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value)
    return y.reshape(*y.shape[:2], -1)
