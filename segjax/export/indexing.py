"""``slice``, ``gather`` and ``squeeze`` as ONNX's Slice, Gather and Squeeze."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segjax.export.graph import Graph, Params, Shape, Value, same

ONLY = "ONNX export gathers at constant places, those of each axis for itself"


def slice_(
    graph: Graph, params: Params, values: Sequence[Value], shapes: Sequence[Shape]
) -> list[Value]:
    """Rows, columns and so on from a start to a limit, every so many."""
    (value,), strides = values, params["strides"]
    steps = {}
    for axis, n in enumerate(value.shape):
        start, end = params["start_indices"][axis], params["limit_indices"][axis]
        step = 1 if strides is None else strides[axis]
        if not (same(start, 0) and same(end, n) and step == 1):
            steps[axis] = (start, end, step)
    return [_sliced(graph, value, steps, shapes[0].dims)]


def _sliced(
    graph: Graph,
    value: Value,
    steps: Mapping[int, tuple[int, int, int]],
    shape: Sequence,
) -> Value:
    """The value cut along axes: (start, end, step). Repeated axes stay only noted."""
    cut = {axis: step for axis, step in steps.items() if axis not in value.repeated}
    name = value.name
    if cut:
        starts, ends, strides = zip(*cut.values(), strict=True)
        axes = [value.order.index(axis) for axis in cut]
        lists = [graph.integers(numbers) for numbers in (starts, ends, axes, strides)]
        name = graph.add("Slice", [name, *lists])
    repeated = frozenset(a for a in value.repeated if not same(shape[a], 1))
    return replace(value, shape=tuple(shape), name=name, repeated=repeated)


def gather(
    graph: Graph, params: Params, values: Sequence[Value], shapes: Sequence[Shape]
) -> list[Value]:
    """Indexing at constant places: JAX makes it of slices, too.

    Raises:
      ValueError: the places are computed, or those of one axis depend on another's.
    """
    value, places = values[0], values[1].array
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    gone, kept = numbers.collapsed_slice_dims, []
    if places is None or numbers.operand_batching_dims:
        raise ValueError(ONLY)
    kept = tuple(axis for axis in range(value.rank) if axis not in gone)
    dims = places.ndim - 1  # of the places; none: a single slice
    if dims and (dims != len(gone) or numbers.offset_dims != kept):
        raise ValueError(ONLY)
    wanted = {}
    for number, axis in enumerate(numbers.start_index_map):
        last = value.shape[axis] - sizes[axis]
        start = np.clip(places[..., number], 0, last)
        along = gone.index(axis) if dims and axis in gone else None
        wanted[axis] = _along(start, along)[:, None] + np.arange(sizes[axis])
    shape, steps = list(value.shape), {}
    for axis, index in wanted.items():
        index = wanted[axis] = index.reshape(-1)
        step = int(index[1] - index[0]) if len(index) > 1 else 1
        shape[axis] = len(index)
        if step > 0 and (np.diff(index) == step).all():
            steps[axis] = (int(index[0]), int(index[-1]) + 1, step)
    value = _sliced(graph, value, steps, shape)
    for axis in wanted.keys() - steps.keys():
        inputs = [graph.whole(value, value.order), graph.initializer(wanted[axis])]
        name = graph.add("Gather", inputs, axis=value.order.index(axis))
        value = replace(value, name=name, repeated=frozenset())
    if dims or not gone:
        return [value]
    return squeeze(graph, {"dimensions": gone}, [value], shapes)


def _along(places: np.ndarray, dimension: int | None) -> np.ndarray:
    """[n]: the places along one dimension, on which alone they depend (None: one)."""
    others = tuple(i for i in range(places.ndim) if i != dimension)
    first = places[
        tuple(slice(0, 1) if i in others else slice(None) for i in range(places.ndim))
    ]
    if not (places == first).all():
        raise ValueError(ONLY)
    return first.reshape(-1)


def squeeze(
    graph: Graph, params: Params, values: Sequence[Value], shapes: Sequence[Shape]
) -> list[Value]:
    """Without axes of length 1."""
    axes = graph.integers(params["dimensions"])
    name = graph.add("Squeeze", [graph.whole(values[0]), axes])
    shape = shapes[0].dims
    return [Value(shape, name, order=tuple(range(len(shape))))]
