"""Every primitive that has a rule, as ONNX in onnxruntime beside JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax.export.rules import RULES
from tests.requirements import require_export

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 2, 3, 4)).astype(np.float32)
GROUPED = RNG.normal(size=(3, 3, 1, 6)).astype(np.float32)
MATRIX = RNG.normal(size=(5, 3)).astype(np.float32)
ROWS = RNG.normal(size=(9, 6)).astype(np.float32)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SHAPE = (6, 7, 3)  # of an image: rows, columns, channels


def conv(x, kernel, strides=(1, 1), padding=((1, 0), (0, 2)), groups=1, **options):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
        **options,
    )


def window(x, start, operation, size, strides, padding):
    full = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, start, operation, (1, *size, 1), (1, *strides, 1), full)


# Rule -> functions of an image [B, 6, 7, 3] that lower to it (and to others).
CASES = {
    "add": [lambda x: x + x[:, :1], lambda x: x + 2.0, lambda x: x + MATRIX[0]],
    "sub": [lambda x: 1 - x, lambda x: x - x[:, :, :1]],
    "mul": [lambda x: x * x[..., :1]],
    "div": [lambda x: x / (2 + jnp.square(x))],
    "max": [
        jax.nn.relu,
        lambda x: jnp.maximum(x, x[:, :1]),
        lambda x: jnp.maximum(0, x),
    ],
    "min": [lambda x: jnp.minimum(x, 0.3), jax.nn.relu6],
    "neg": [lambda x: -x],
    "exp": [jnp.exp, jax.nn.softmax],
    "square": [jnp.square],
    "rsqrt": [lambda x: lax.rsqrt(1 + jnp.square(x))],
    "logistic": [jax.nn.sigmoid, jax.nn.silu],
    "erfc": [lambda x: jax.nn.gelu(x, approximate=False), lax.erfc],
    "eq": [lambda x: jnp.where(jnp.maximum(x, 0) == 0, x, 1.0)],
    "ne": [lambda x: jnp.where(jnp.maximum(x, 0) != 0, x, 1.0)],
    "lt": [lambda x: jnp.where(x < 0.1, x, -x)],
    "gt": [lambda x: (x > 0.1).astype(jnp.float32)],
    "select_n": [
        lambda x: jnp.where(x > x[:, :1], x, 7.0),
        lambda x: jnp.where(np.arange(3) == 1, x, 0.0),
    ],
    "convert_element_type": [
        lambda x: jnp.where(x > 0, 3, 5).astype(jnp.uint8).astype(jnp.float32),
    ],
    "stop_gradient": [lambda x: 2 * lax.stop_gradient(x)],
    "copy": [lambda x: jnp.array(x, copy=True) * 2],
    "broadcast_in_dim": [
        lambda x: jnp.broadcast_to(x[:, :1], x.shape) * 2,
        lambda x: jnp.broadcast_to(MATRIX[0], x.shape).reshape(x.shape[0], -1),
        lambda x: jnp.broadcast_to(x[:, :, None, :, None], (x.shape[0], 6, 2, 7, 3, 3)),
        lambda x: conv(jnp.broadcast_to(x[:, :1], x.shape), KERNEL),
        lambda x: jnp.concatenate([jnp.zeros_like(x), x], 3),
        lambda x: jnp.broadcast_to(conv(x, KERNEL)[:, :1], (x.shape[0], 2, 8, 4)),
    ],
    "reshape": [
        lambda x: x.reshape(-1, 21),
        lambda x: conv(x, KERNEL).reshape(x.shape[0], -1),
        lambda x: x.reshape(2 * x.shape[0], 3, 21),
    ],
    "squeeze": [lambda x: x[:, 2], lambda x: conv(x, KERNEL)[:, 1, :, 2]],
    "transpose": [
        lambda x: x.transpose(0, 2, 1, 3),
        lambda x: conv(x, KERNEL).transpose(3, 0, 2, 1).reshape(4, -1),
        lambda x: jnp.broadcast_to(x[:, :1], x.shape).transpose(3, 1, 2, 0),
    ],
    "concatenate": [
        lambda x: jnp.concatenate([x, 2 * x], 1),
        lambda x: jnp.concatenate([conv(x, KERNEL), x[:, :5, :, :1].repeat(4, 3)], 2),
        lambda x: jnp.concatenate([x, conv(x, KERNEL, padding=((1, 1), (1, 0)))], 3),
    ],
    "stack": [lambda x: jnp.stack([x, 2 * x], 2), lambda x: jnp.stack([x, -x], 4)],
    "tile": [
        lambda x: jnp.tile(conv(x, KERNEL), (1, 2, 1, 3)),
        lambda x: x.reshape(-1) * jnp.tile(np.arange(126.0), x.shape[0]),
    ],
    "split": [
        lambda x: jnp.split(x, [2, 3], 2)[2],
        lambda x: sum(lax.split(conv(x, KERNEL), [2, 2], 3)),
    ],
    "slice": [
        lambda x: x[:, 1:5:2, 3:],
        lambda x: conv(x, KERNEL)[:, 1:, :, 1:3],
        lambda x: jnp.broadcast_to(x[:, :1], x.shape)[:, 2:4, 1:],
    ],
    "pad": [
        lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))),
        lambda x: jnp.pad(conv(x, KERNEL), ((0, 0), (0, 1), (2, 0), (0, 0))),
        lambda x: lax.pad(x, -1e9, ((0, 0, 0), (1, 0, 0), (0, 0, 0), (0, 2, 0))),
    ],
    "gather": [
        lambda x: jnp.take(x, np.array([0, 0, 3, 5]), axis=1),
        lambda x: jnp.take(conv(x, KERNEL), np.array([4, 1]), axis=2),
        lambda x: jnp.take(x, np.array([2]), axis=3),
        lambda x: x[:, 1:6:2, ::3] + x[:, :1, :1],
        lambda x: conv(x, KERNEL)[:, ::2, 1::2],
        lambda x: jnp.take(jnp.broadcast_to(x[:, :1], x.shape), np.array([4]), axis=1),
    ],
    "reduce_sum": [
        lambda x: x.sum((1, 2)),
        lambda x: conv(x, KERNEL).sum(1),
        lambda x: jnp.broadcast_to(x[:, :1], x.shape).sum(1),
        lambda x: conv(x, KERNEL).mean((2, 3)),
    ],
    "reduce_max": [lambda x: x.max((1, 3)), lambda x: conv(x, KERNEL).max(3)],
    "reduce_window_sum": [
        lambda x: window(x, 0.0, lax.add, (2, 3), (2, 1), ((0, 0), (0, 0))),
        lambda x: window(x, 0.0, lax.add, (3, 3), (2, 2), ((1, 1), (0, 1))),
    ],
    "reduce_window_max": [
        lambda x: window(x, -jnp.inf, lax.max, (2, 3), (2, 1), ((0, 0), (0, 0))),
        lambda x: window(x, -jnp.inf, lax.max, (3, 3), (2, 2), ((1, 1), (0, 1))),
        lambda x: window(
            conv(x, KERNEL), -jnp.inf, lax.max, (2, 2), (2, 2), ((0, 1), (0, 0))
        ),
    ],
    "dot_general": [
        lambda x: x @ MATRIX.T,
        lambda x: jnp.einsum("oh,bhwc->bowc", ROWS, x) + 1,
        lambda x: jnp.einsum("oh,bhwc->bowc", ROWS, conv(x, KERNEL, padding="SAME")),
        lambda x: jnp.einsum("bnhd,bmhd->bhnm", x, 2 * x),
        lambda x: jnp.einsum("bhnm,bmhd->bnhd", x, x.transpose(0, 3, 1, 2)),
        lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x),
        lambda x: jnp.einsum("bhwc,vwc->bhv", x, np.ones((2, 7, 3), np.float32)),
    ],
    "conv_general_dilated": [
        lambda x: conv(x, KERNEL),
        lambda x: conv(x, KERNEL, strides=(2, 1), rhs_dilation=(2, 3)),
        lambda x: conv(x, GROUPED, groups=3),
        lambda x: conv(conv(x, KERNEL), KERNEL.transpose(0, 1, 3, 2)),
        lambda x: conv(x, KERNEL, padding=((2, 2), (1, 1)), lhs_dilation=(2, 2)),
        lambda x: conv(x, KERNEL, padding=((1, 1), (0, 1)), lhs_dilation=(3, 2)),
        lambda x: conv(x, KERNEL, padding=((0, 3), (1, 2)), lhs_dilation=(2, 2)),
        lambda x: conv(
            x, GROUPED, padding=((2, 2), (1, 1)), lhs_dilation=(2, 2), groups=3
        ),
        lambda x: conv(
            x,
            KERNEL,
            padding=((2, 2), (1, 1)),
            lhs_dilation=(2, 2),
            rhs_dilation=(2, 1),
        ),
    ],
}


def primitives(jaxpr) -> set[str]:
    """Names of all primitives in a jaxpr."""
    found = set()
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "jaxpr")]
        found |= {equation.primitive.name}.union(*(primitives(p.jaxpr) for p in inner))
    return found


def lowered(function) -> set[str]:
    """Names of what a function of an image lowers to, on its own and for any batch."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((n, *SHAPE), jnp.float32) for n in (3, batch)]
    return set().union(*(primitives(jax.make_jaxpr(function)(s).jaxpr) for s in shapes))


def convert(function, *arguments, **options):
    from segjax.export.onnx import convert

    return convert(function, *arguments, **options)


def run(model, image):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": image})[0]


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule(name):
    require_export()
    image = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    for number, function in enumerate(CASES[name]):
        with jax.numpy_rank_promotion("allow"):
            assert name in lowered(function), f"case {number} has no {name}"
            wanted = np.asarray(jax.jit(function)(image))
            model = convert(lambda _, x, f=function: f(x), {}, SHAPE)
        # Another batch than that of a trace: it may have any size.
        found = run(model, image)
        assert found.shape == wanted.shape, number
        limit = 1e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=limit, err_msg=number)
        alone = run(model, image[:1])
        assert alone.size * 3 == wanted.size


def test_what_has_no_rule_is_named():
    require_export()
    for function, message in (
        (jnp.sin, "has no rule for JAX's primitive 'sin'"),
        (lambda x: x[..., ::-1], "has no rule for JAX's primitive 'rev'"),
        (
            lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))),
            "pads by constants around a map only",
        ),
        (
            lambda x: conv(x, KERNEL * x.sum()),
            "convolves [B, H, W, C] by constant kernels only",
        ),
        (
            lambda x: jnp.take(x, jnp.zeros((2, 2), jnp.int32), axis=1),
            "gathers at constant places, those of each axis for itself",
        ),
        (lambda x: x.astype(jnp.bfloat16), "no arrays of bfloat16"),
    ):
        with pytest.raises(ValueError) as error:
            convert(lambda _, x, f=function: f(x), {}, SHAPE)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_what_depends_on_no_image_is_a_constant():
    require_export()

    def function(variables, x):
        kernel = jnp.sin(variables["kernel"])[::-1] * lax.rsqrt(variables["var"] + 1)
        return conv(x, jnp.cumsum(kernel, 0))

    variables = {"kernel": KERNEL, "var": np.ones((), np.float32)}
    model = convert(function, variables, SHAPE)
    assert [n.op_type for n in model.graph.node].count("Conv") == 1
    assert len(model.graph.node) == 4  # two transpositions and the result's name
    image = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    wanted = function(variables, image)
    np.testing.assert_allclose(run(model, image), wanted, atol=1e-5)


def test_a_chain_of_convolutions_is_transposed_twice():
    require_export()

    one = np.ones((1, 1, 3, 3), np.float32)

    def function(_, x):
        for _ in range(3):
            x = jax.nn.relu(conv(x, one, padding="VALID") * 2 + x)
        return jnp.concatenate([x, x], 3)

    kinds = [n.op_type for n in convert(function, {}, SHAPE).graph.node]
    assert kinds.count("Transpose") == 2 and kinds.count("Relu") == 3


def test_the_same_constant_is_there_once():
    require_export()
    big = np.random.default_rng(0).normal(size=(1, 1, 3, 3)).astype(np.float32)

    def function(_, x):
        return functools.reduce(conv, [big] * 4, x)

    assert len(convert(function, {}, SHAPE).graph.initializer) == 1
