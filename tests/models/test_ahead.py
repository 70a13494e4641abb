"""What a network computes from its variables alone, computed once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax.models import compute_ahead, fold_batch_norm
from segjax.ops import conv
from tests.models.test_contract import small

IMAGE = (2, 64, 96, 3)


@jax.custom_vjp
def scaled(x, weights):
    return x * jnp.tanh(weights)


scaled.defvjp(lambda x, w: (x, None), lambda _, g: (g, g))


@jax.checkpoint
def twice(x, weights):
    return x @ jnp.exp(weights)


def add(bias, x):
    return x + bias[None]


def nested(variables, x):
    """Calls of each kind, a loop and a condition; one result is known ahead."""
    square, bias = variables["square"], variables["bias"]
    known = jnp.linalg.norm(square) + variables["count"]
    x = jax.nn.relu(scaled(x["x"], jnp.sin(square)))
    x = twice(x, square) + bias[None]
    x, _ = lax.scan(lambda c, _: (jnp.tanh(c @ square), None), x, length=3)
    x = lax.cond(x[0, 0] > 0, partial(add, bias), lambda a: a - jnp.cos(bias)[None], x)
    return {"x": jnp.where(x > 0, x, known), "known": (known, jnp.arange(3))}


def drawn(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(values)


def test_a_function_of_many_kinds_of_calls():
    variables = {
        "square": drawn(0, 5, 5),
        "bias": drawn(1, 5),
        "count": jnp.int32(3),
        "unused": drawn(2, 1000),
    }
    x = {"x": drawn(3, 5, 5)}
    rest, prepared = compute_ahead(nested, variables, x)
    wanted, found = jax.jit(nested)(variables, x), jax.jit(rest)(prepared, x)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert max(a.size for a in prepared) == 25  # not the unused, nor bias for all rows
    text = str(jax.make_jaxpr(rest)(prepared, x))
    for name in ("sin", "exp", "sqrt"):
        assert f" {name} " not in text and name in str(
            jax.make_jaxpr(nested)(variables, x)
        )
    assert " cos " in text  # within a branch that may not be taken


def test_another_shape_is_refused():
    variables = {"square": drawn(0, 5, 5), "bias": drawn(1, 5), "count": np.int32(1)}
    rest, prepared = compute_ahead(
        nested, variables, {"x": jax.ShapeDtypeStruct((5, 5), jnp.float32)}
    )
    rest(prepared, {"x": drawn(3, 5, 5)})
    for other in (drawn(3, 1, 5), drawn(3, 5, 5).astype(jnp.bfloat16)):
        with pytest.raises(ValueError, match="computed ahead for"):
            rest(prepared, {"x": other})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_logits_of_a_network_stay(dtype):
    """Nothing is left that could be computed ahead, and the maps are not prepared."""
    model = small("resnet18", "unet", dtype=dtype, platform="cpu")
    image = drawn(0, *IMAGE)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), image)
    folded, fewer = fold_batch_norm(model, variables)
    apply = partial(folded.apply, train=False)
    rest, prepared = compute_ahead(apply, fewer, image)
    wanted, found = jax.jit(apply)(fewer, image), jax.jit(rest)(prepared, image)
    assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()
    assert {a.dtype for a in prepared if a.ndim > 1} == {jnp.dtype(dtype)}
    assert max(a.size for a in prepared) <= max(a.size for a in jax.tree.leaves(fewer))
    again, same = compute_ahead(rest, prepared, image)
    assert len(same) == len(prepared)
    for one, other in zip(same, prepared, strict=True):
        np.testing.assert_array_equal(one, other)


def test_kernels_are_transformed_for_winograds_products():
    """Which CI's eight devices do not choose by themselves."""
    x, kernel = drawn(0, 2, 8, 8, 3), drawn(1, 3, 3, 3, 4)
    same = ((1, 1), (1, 1))

    def convolve(kernel, x):
        return conv._conv_gemm((1, 1), same, (1, 1), "winograd", x, kernel)

    rest, prepared = compute_ahead(convolve, kernel, x)
    assert [a.shape for a in prepared] == 16 * [(3, 4)]
    wanted = conv.conv2d(x, kernel, padding=1)
    np.testing.assert_allclose(jax.jit(rest)(prepared, x), wanted, rtol=0, atol=1e-5)


def test_side_effects_are_refused():
    def loud(x, y):
        jax.debug.print("{}", y)
        return x * y

    with pytest.raises(ValueError, match="side effects"):
        compute_ahead(loud, drawn(0, 3), drawn(1, 3))
