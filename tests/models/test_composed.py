"""SegFormer's decoder with its linear layers in another order: the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.decoders.segformer import Segformer
from segjax.models.layers import Features, Layers

KEY = jax.random.key(3)
LIKES = ("segjax", "smp")
SIZES = {2: (18, 14), 4: (9, 7), 8: (5, 4), 16: (3, 2), 32: (2, 1)}


@pytest.mark.parametrize(
    "like, norm, dtype, tolerance",
    [
        *((like, n, jnp.float64, 1e-10) for like in LIKES for n in ("batch", "none")),
        # Sums over all pixels, one after the other, which cancel; a norm would divide
        # by what is left of them.
        *((like, "none", jnp.float32, 1e-4) for like in LIKES),
    ],
)
def test_composed_layers_are_the_layers(like, norm, dtype, tolerance):
    """Value and the gradients of maps and parameters; the same parameters."""
    rng = np.random.default_rng(1)
    strides = tuple(SIZES)[0 if like == "smp" else 1 :]

    def run(platform):
        layers = Layers(norm, dtype=dtype, param_dtype=dtype, platform=platform)
        model = Segformer(layers, like, strides, 6)

        def function(variables, maps):
            return model.apply(variables, Features(maps), (36, 28), train=False)

        shapes = jax.eval_shape(
            lambda m: model.init(KEY, Features(m), (36, 28), train=False), maps
        )
        drawn = np.random.default_rng(3)  # biases that are not zero, variances above 0
        variables = jax.tree.map(
            lambda leaf: jnp.asarray(drawn.uniform(0.5, 1.5, leaf.shape), dtype), shapes
        )

        @jax.jit
        def both(variables, maps):
            y, pull = jax.vjp(function, variables, maps)
            return y, pull(jnp.cos(y))

        return variables, *both(variables, maps)

    with jax.enable_x64(True):
        maps = [
            jnp.asarray(rng.normal(size=(2, *SIZES[stride], 3 + i)), dtype)
            for i, stride in enumerate(strides)
        ]
        (plain, *wanted), (same, *found) = (run(p) for p in (None, "cpu"))
        jax.tree.map(np.testing.assert_array_equal, plain, same)
        assert wanted[0].shape == (2, 9, 7, 6)
        for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            assert a.dtype == b.dtype == dtype
            largest = max(1, np.abs(b).max())
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


def test_fewer_multiply_adds():
    maps = [jnp.zeros((1, 32 // s, 32 // s, 8)) for s in (1, 2, 4, 8)]

    def flops(platform):
        model = Segformer(Layers(platform=platform), decoder_segmentation_channels=64)
        arguments = Features(maps), (128, 128)
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), *arguments, train=False)
        )
        lowered = jax.jit(lambda v: model.apply(v, *arguments, train=False)).lower(
            variables
        )
        return lowered.cost_analysis()["flops"]

    assert flops("cpu") < 0.5 * flops(None)
