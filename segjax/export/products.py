"""``dot_general`` as ONNX's MatMul, or Einsum where that has no such form."""

import string
from collections.abc import Sequence

from segjax.export.graph import Graph, Params, Shape, Value


def dot_general(
    graph: Graph, params: Params, values: Sequence[Value], shapes: Sequence[Shape]
) -> list[Value]:
    """Products over one or more axes, for each index of the batch axes.

    JAX's result has the batch axes, then the free ones of the left, then of the right.
    """
    (sums_left, sums_right), (batch_left, batch_right) = params["dimension_numbers"]
    left, right = values
    free_left = _others(left, sums_left, batch_left)
    free_right = _others(right, sums_right, batch_right)
    one = len(sums_left) == 1
    shape = shapes[0].dims
    order = tuple(range(len(shape)))
    if one and not batch_left and len(free_right) == 1:
        a = graph.whole(left, (*free_left, *sums_left))
        b = graph.whole(right, (*sums_right, *free_right))
        return [Value(shape, graph.add("MatMul", [a, b]), order=order)]
    if one and not batch_left and len(free_left) == 1:
        # The other way round: the left one's free axis comes last, which is noted.
        a = graph.whole(right, (*free_right, *sums_right))
        b = graph.whole(left, (*sums_left, *free_left))
        name = graph.add("MatMul", [a, b])
        return [Value(shape, name, order=(*order[1:], 0))]
    if one and len(free_left) == len(free_right) == 1:
        a = graph.whole(left, (*batch_left, *free_left, *sums_left))
        b = graph.whole(right, (*batch_right, *sums_right, *free_right))
        return [Value(shape, graph.add("MatMul", [a, b]), order=order)]
    letters = iter(string.ascii_letters)
    names_left = {axis: next(letters) for axis in range(left.rank)}
    names_right = {axis: next(letters) for axis in range(right.rank)}
    for pairs in ((sums_left, sums_right), (batch_left, batch_right)):
        names_right |= {r: names_left[axis] for axis, r in zip(*pairs, strict=True)}
    result = [names_left[axis] for axis in (*batch_left, *free_left)]
    result += [names_right[axis] for axis in free_right]
    equation = "{},{}->{}".format(
        "".join(names_left.values()), "".join(names_right.values()), "".join(result)
    )
    name = graph.add(
        "Einsum", [graph.whole(left), graph.whole(right)], equation=equation
    )
    return [Value(shape, name, order=order)]


def _others(value: Value, *taken: Sequence[int]) -> list[int]:
    used = {axis for axes in taken for axis in axes}
    return [axis for axis in range(value.rank) if axis not in used]
