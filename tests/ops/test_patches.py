"""The filter gradient of a transposed convolution against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import patches


@pytest.mark.parametrize(
    "kernel, strides, padding",
    [
        ((4, 4), (2, 2), (1, 1)),  # of an upsampled map's convolution
        ((4, 6), (2, 3), (0, 2)),
        ((2, 2), (2, 2), (0, 0)),
        ((3, 5), (1, 2), (1, 1)),
    ],
)
@pytest.mark.parametrize("size", [(5, 6), (1, 1)])
def test_gradients(kernel, strides, padding, size):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        weights = jnp.asarray(rng.normal(size=(*kernel, 3, 5)))
        pulled = []
        for function in (patches.summed, patches.between_zeros):
            y, back = jax.vjp(
                lambda x, k, f=function: f(x, k, strides, padding), x, weights
            )
            pulled.append((y, *back(jnp.sin(y))))
    for ours, theirs in zip(*pulled, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)


def test_it_is_a_strided_convolutions():
    """The map is dilated, not turned about; bfloat16 stays."""
    x, weights = jnp.ones((2, 3, 4, 3), "bfloat16"), jnp.ones((4, 4, 3, 5), "bfloat16")

    def gradient(x, weights):
        y, back = jax.vjp(lambda k: patches.summed(x, k, (2, 2), (1, 1)), weights)
        return back(y)[0]

    assert gradient(x, weights).dtype == jnp.bfloat16
    jaxpr = str(jax.make_jaxpr(gradient)(x, weights))
    assert "rhs_dilation=(2, 2)" in jaxpr
    own = patches.between_zeros
    theirs = jax.make_jaxpr(
        lambda x, k: jax.vjp(lambda k: own(x, k, (2, 2), (1, 1)), k)[1](
            jnp.ones((2, 6, 8, 5), "bfloat16")
        )
    )(x, weights)
    assert "rhs_dilation=(2, 2)" not in str(theirs)
