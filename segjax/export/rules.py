"""JAX's primitives as ONNX nodes: one rule for each that inference lowers to.

A rule takes the graph, the equation's parameters, its operands and the shapes of its
results, and returns the results. :data:`RULES` is the closed list: another primitive
is an error that names it. What depends on no image is computed beforehand and becomes a
constant, so that there is no rule for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segjax.export import indexing
from segjax.export.convolution import convolution
from segjax.export.graph import Graph, Params, Shape, Value, constant, onnx_type, same
from segjax.export.products import dot_general

Rule = Callable[[Graph, Params, Sequence[Value], Sequence[Shape]], list[Value]]


def _order(values: Sequence[Value]) -> tuple[int, ...]:
    """The order of axes that costs the fewest transpositions: the first operand's."""
    ranked = [v for v in values if v.array is None and v.rank]
    longest = max(v.rank for v in values)
    for value in ranked:
        if value.rank == longest:
            return value.order
    return tuple(range(longest))


def elementwise(graph: Graph, node: Callable[..., str], values, shape) -> Value:
    """Operands side by side in one order; what all repeat stays only noted."""
    order = _order(values)
    names = [graph.in_order(v, order if v.rank else ()) for v in values]
    repeated = frozenset(
        axis
        for axis, n in enumerate(shape)
        if not same(n, 1) and all(axis in v.repeated or not v.rank for v in values)
    )
    return Value(tuple(shape), node(*names), order=order, repeated=repeated)


def _nodes(*kinds: str) -> Rule:
    """A rule for an elementwise primitive: nodes that follow each other."""

    def rule(graph, params, values, shapes):
        def chain(*names):
            for kind in kinds:
                names = (graph.add(kind, names),)
            return names[0]

        return [elementwise(graph, chain, values, shapes[0].dims)]

    return rule


def _formula(make: Callable[..., str]) -> Rule:
    """A rule for an elementwise primitive of several nodes: make(graph, *names)."""

    def rule(graph, params, values, shapes):
        def named(*names):
            return make(graph, *names)

        return [elementwise(graph, named, values, shapes[0].dims)]

    return rule


def _number(graph: Graph, value: float) -> str:
    return graph.initializer(np.float32(value))


def _maximum(graph, params, values, shapes):
    """A maximum with zero is a ReLU, which runtimes join to the layer before."""
    for zero, other in (values, values[::-1]):
        if zero.array is not None and not zero.array.any() and other.array is None:
            if np.issubdtype(zero.array.dtype, np.floating):
                name = graph.add("Relu", [other.name])
                return [replace(other, name=name, shape=shapes[0].dims)]
    return _nodes("Max")(graph, params, values, shapes)


def _same(graph, params, values, shapes):
    return [values[0]]


def _convert(graph, params, values, shapes):
    kind = onnx_type(params["new_dtype"])

    def cast(name):
        return graph.add("Cast", [name], to=kind)

    return [elementwise(graph, cast, values, shapes[0].dims)]


def _select(graph, params, values, shapes):
    """Of two cases; JAX's first is the one for False."""
    if len(values) != 3:
        raise ValueError("ONNX export has no select_n of more than two cases")
    return _nodes("Where")(graph, params, [values[i] for i in (0, 2, 1)], shapes)


def _broadcast(graph, params, values, shapes):
    """New axes of length 1; that they are longer is only noted."""
    (value,), shape, axes = values, shapes[0].dims, params["broadcast_dimensions"]
    noted = {axes[axis] for axis in value.repeated}
    noted |= {axes[i] for i, n in enumerate(value.shape) if not same(n, shape[axes[i]])}
    new = [axis for axis in range(len(shape)) if axis not in axes]
    noted |= {axis for axis in new if not same(shape[axis], 1)}
    if value.array is not None:
        return [constant(np.expand_dims(value.array, tuple(new)), shape)]
    if not new:
        return [replace(value, shape=shape, repeated=frozenset(noted))]
    name = graph.in_order(value, range(value.rank))
    name = graph.add("Unsqueeze", [name, graph.integers(new)])
    order = tuple(range(len(shape)))
    return [Value(shape, name, order=order, repeated=frozenset(noted))]


def _reshape(graph, params, values, shapes):
    shape = shapes[0].dims
    name = graph.reshaped(graph.whole(values[0]), shape)
    return [Value(shape, name, order=tuple(range(len(shape))))]


def _transpose(graph, params, values, shapes):
    """Only noted."""
    (value,), permutation = values, params["permutation"]
    order = tuple(permutation.index(axis) for axis in value.order)
    repeated = frozenset(permutation.index(axis) for axis in value.repeated)
    return [replace(value, shape=shapes[0].dims, order=order, repeated=repeated)]


def _concatenate(graph, params, values, shapes):
    return [_joined(graph, values, params["dimension"], shapes[0].dims)]


def _joined(graph, values, axis, shape):
    order = _order(values)
    names = [graph.whole(value, order) for value in values]
    name = graph.add("Concat", names, axis=order.index(axis))
    return Value(shape, name, order=order)


def _stack(graph, params, values, shapes):
    axis, shape = params["axis"], shapes[0].dims
    new = [(*v.shape[:axis], 1, *v.shape[axis:]) for v in values]
    parts = []
    for value, dims in zip(values, new, strict=True):
        name = graph.add("Unsqueeze", [graph.whole(value), graph.integers([axis])])
        parts.append(Value(dims, name, order=tuple(range(len(dims)))))
    return [_joined(graph, parts, axis, shape)]


def _tile(graph, params, values, shapes):
    (value,), reps = values, params["reps"]
    repeats = graph.sizes([reps[axis] for axis in value.order])
    name = graph.add("Tile", [graph.whole(value, value.order), repeats])
    return [Value(shapes[0].dims, name, order=value.order)]


def _split(graph, params, values, shapes):
    (value,), sizes = values, params["sizes"]
    inputs = [graph.whole(value, value.order), graph.integers(sizes)]
    axis = value.order.index(params["axis"])
    names = graph.add_many("Split", inputs, len(sizes), axis=axis)
    return [
        Value(shape.dims, name, order=value.order)
        for name, shape in zip(names, shapes, strict=True)
    ]


def _pad(graph, params, values, shapes):
    value, filling = values
    low, high, inside = zip(*params["padding_config"], strict=True)
    if min(*low, *high) < 0 or any(inside) or filling.array is None:
        raise ValueError("ONNX export pads by constants around a map only")
    pads = [sides[axis] for sides in (low, high) for axis in value.order]
    inputs = [graph.whole(value, value.order), graph.integers(pads)]
    name = graph.add("Pad", [*inputs, graph.initializer(filling.array)])
    return [replace(value, shape=shapes[0].dims, name=name, repeated=frozenset())]


def _reduce(kind: str) -> Rule:
    def rule(graph, params, values, shapes):
        (value,), axes = values, params["axes"]
        places = [value.order.index(axis) for axis in axes]
        inputs = [graph.whole(value, value.order), graph.integers(places)]
        name = graph.add(kind, inputs, keepdims=0)
        left = [axis for axis in range(value.rank) if axis not in axes]
        order = tuple(left.index(axis) for axis in value.order if axis not in axes)
        return [Value(shapes[0].dims, name, order=order)]

    return rule


def _window(kind: str) -> Rule:
    """Pooling over rows and columns."""

    def rule(graph, params, values, shapes):
        window, strides = params["window_dimensions"], params["window_strides"]
        padding = params["padding"]
        inner = (window[0], window[3], *padding[0], *padding[3], *strides[::3])
        dilated = {*params["base_dilation"], *params["window_dilation"]}
        if len(window) != 4 or inner != (1, 1, 0, 0, 0, 0, 1, 1) or dilated != {1}:
            raise ValueError(f"ONNX export pools rows and columns only, not {window}")
        (top, bottom), (left, right) = padding[1:3]
        options: dict[str, Any] = {"kernel_shape": window[1:3], "strides": strides[1:3]}
        options["pads"] = [top, left, bottom, right]
        if kind == "AveragePool":
            options["count_include_pad"] = 1
        name = graph.whole(values[0], (0, 3, 1, 2))
        name = graph.add(kind, [name], **options)
        if kind == "AveragePool":  # JAX's is a sum
            name = graph.add("Mul", [name, _number(graph, math.prod(window))])
        return [Value(shapes[0].dims, name, order=(0, 3, 1, 2))]

    return rule


RULES: dict[str, Rule] = {
    # of single elements
    "add": _nodes("Add"),
    "sub": _nodes("Sub"),
    "mul": _nodes("Mul"),
    "div": _nodes("Div"),
    "max": _maximum,
    "min": _nodes("Min"),
    "neg": _nodes("Neg"),
    "exp": _nodes("Exp"),
    "square": _formula(lambda graph, x: graph.add("Mul", [x, x])),
    "rsqrt": _nodes("Sqrt", "Reciprocal"),
    "logistic": _nodes("Sigmoid"),
    "erfc": _formula(
        lambda graph, x: graph.add("Sub", [_number(graph, 1), graph.add("Erf", [x])])
    ),
    "eq": _nodes("Equal"),
    "ne": _nodes("Equal", "Not"),
    "lt": _nodes("Less"),
    "gt": _nodes("Greater"),
    "select_n": _select,
    "convert_element_type": _convert,
    "stop_gradient": _same,
    "copy": _same,
    # of axes
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": indexing.squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "split": _split,
    "slice": indexing.slice_,
    "pad": _pad,
    "gather": indexing.gather,
    # of many elements
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_window_sum": _window("AveragePool"),
    "reduce_window_max": _window("MaxPool"),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
}
