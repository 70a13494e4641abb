"""ONNX: the network's jaxpr as nodes, run by onnxruntime."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

from segjax.export import graph as graphs
from segjax.export.graph import Graph, Shape, Value, constant, static
from segjax.export.network import Network
from segjax.export.rules import RULES

ENDING = ".onnx"
NEEDS = ("onnx", "onnxruntime")

# Primitives that only hold others: the parameter that has them.
HOLDERS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}


def check() -> None:
    """Raise a ValueError where the packages are missing."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--format onnx needs {' and '.join(missing)}: pip install 'segjax[export]'"
        )


def write(network: Network, path: Path, about: Mapping[str, Any]) -> None:
    """Write the network, its weights inside, and ``about`` as metadata.

    The batch may have any size; input ``image``, output ``logits``.
    """
    import onnx  # pyright: ignore[reportMissingImports]

    shape = (*network.size, network.channels)
    model = convert(network.apply, network.variables, shape, ("image", "logits"))
    metadata = {"segjax": json.dumps(about)}
    for key in ("preprocessing", "classes", "palette"):
        metadata[key] = json.dumps(about[key])
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, str(path))


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file's network: float32[B, H, W, C] -> logits."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    (name,) = (given.name for given in session.get_inputs())
    return lambda image: np.asarray(session.run(None, {name: image})[0])


def convert(
    function: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    shape: tuple[int, ...],
    names: tuple[str, str] = ("image", "logits"),
    dtype: Any = np.float32,
) -> Any:
    """An ONNX model of ``function(variables, image [batch, *shape])``.

    The variables, and all that is computed from them alone, become constants; the batch
    is a dimension of any size.

    Raises:
      ValueError: a primitive has no rule (it is named), or is used as none can.
    """
    from onnx import checker, helper  # pyright: ignore[reportMissingImports]

    (batch,) = jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *shape), dtype)
    closed = jax.make_jaxpr(function)(variables, image)
    graph = Graph(names[0], batch)
    order = tuple(range(1 + len(shape)))
    given = Value((batch, *shape), names[0], order=order)
    leaves = [constant(np.asarray(leaf)) for leaf in jax.tree.leaves(variables)]
    (result,) = _run(graph, closed.jaxpr, closed.consts, [*leaves, given])
    (out,) = closed.out_avals
    last = graph.whole(result)
    nodes = [*graph.nodes, helper.make_node("Identity", [last], [names[1]])]
    infos = [
        helper.make_tensor_value_info(
            name,
            graphs.onnx_type(aval.dtype),
            [n if isinstance(n, int) else "batch" for n in aval.shape],
        )
        for name, aval in ((names[0], image), (names[1], out))
    ]
    made = helper.make_graph(
        nodes, "segjax", infos[:1], infos[1:], list(graph.constants.values())
    )
    opset = helper.make_opsetid("", graphs.OPSET)
    model = helper.make_model(
        made,
        opset_imports=[opset],
        producer_name="segjax",
        ir_version=graphs.IR_VERSION,
    )
    checker.check_model(model)
    return model


def _run(graph: Graph, jaxpr: Any, consts: Any, given: list[Value]) -> list[Value]:
    """The results of a jaxpr of these values."""
    held = dict(zip(jaxpr.invars, given, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        held[var] = constant(np.asarray(const))

    def value(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            return constant(np.asarray(atom.val, atom.aval.dtype))  # type: ignore
        return held[atom]

    for equation in jaxpr.eqns:
        results = _equation(graph, equation, [value(v) for v in equation.invars])
        for var, result in zip(equation.outvars, results, strict=True):
            held[var] = result
    return [value(v) for v in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    outer = graph.scope
    stack = str(equation.source_info.name_stack)
    graph.scope = f"{outer}/{stack}" if outer and stack else outer or stack
    try:
        if name in HOLDERS:
            inner = params[HOLDERS[name]]
            jaxpr = getattr(inner, "jaxpr", inner)
            return _run(graph, jaxpr, getattr(inner, "consts", ()), values)
        shapes = [Shape(tuple(v.aval.shape), v.aval.dtype) for v in equation.outvars]
        if all(v.array is not None for v in values) and name != "broadcast_in_dim":
            if all(static(v.shape) for v in values) and all(map(_static, shapes)):
                return _computed(equation, values)
        if name not in RULES:
            raise ValueError(
                f"ONNX export has no rule for JAX's primitive {name!r} (at {stack}); "
                "take --format stablehlo"
            )
        return RULES[name](graph, params, values, shapes)
    finally:
        graph.scope = outer


def _static(shape: Shape) -> bool:
    return static(shape.dims)


def _computed(equation: Any, values: list[Value]) -> list[Value]:
    """What depends on no image, computed now."""
    arrays = [np.broadcast_to(v.array, v.shape) for v in values]  # type: ignore
    found = equation.primitive.bind(*arrays, **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [constant(np.asarray(array)) for array in found]
