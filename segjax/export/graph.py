"""The nodes and tensors of an ONNX graph while it is being made.

A :class:`Value` is an array of the JAX program and how it lies in the graph: in another
order of its axes (ONNX convolves [B, C, H, W]), or not yet repeated along axes that
were only broadcast. What needs neither node nor copy stays so: a transposition is noted
and made when somebody asks, and a convolution's successors work on its own layout.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

OPSET = 18
IR_VERSION = 8

# ONNX's types, for those arrays of JAX's that inference has. Narrow integers count
# taps and choose cases: they are as good, and better supported, as int32.
DTYPES = {
    **{"bool": "BOOL", "float32": "FLOAT", "int32": "INT32", "int64": "INT64"},
    **{name: "INT32" for name in ("int8", "uint8", "int16", "uint16", "uint32")},
}


@dataclass(frozen=True)
class Value:
    """An array of the JAX program.

    ``shape`` is JAX's; the batch dimension may be symbolic. Axis i of the tensor in the
    graph is JAX's axis ``order[i]``; along the axes ``repeated`` (JAX's) it has length
    1. A constant has its ``array`` (in JAX's order, repeated axes of length 1) in place
    of a ``name``.
    """

    shape: tuple[Any, ...]
    name: str = ""
    array: np.ndarray | None = None
    order: tuple[int, ...] = ()
    repeated: frozenset[int] = frozenset()

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def plain(self) -> bool:
        """Whether the axes are in JAX's order."""
        return self.order == tuple(range(self.rank))


class Shape(NamedTuple):
    """What a result is to be."""

    dims: tuple[Any, ...]
    dtype: Any


def constant(array: np.ndarray, shape: Sequence[Any] | None = None) -> Value:
    """A constant; ``shape`` where it is longer along axes of length 1."""
    shape = tuple(array.shape if shape is None else shape)
    repeated = frozenset(
        axis
        for axis, (n, m) in enumerate(zip(array.shape, shape, strict=True))
        if n == 1 and not same(m, 1)
    )
    order = tuple(range(array.ndim))
    return Value(shape, array=array, order=order, repeated=repeated)


def same(a: Any, b: Any) -> bool:
    """Whether two dimensions are known to be equal; symbolic ones may be involved."""
    return type(a) is type(b) and bool(a == b)


def static(shape: Sequence[Any]) -> bool:
    """Whether no dimension is symbolic."""
    return all(isinstance(n, int) for n in shape)


@dataclass
class Graph:
    """Nodes and constants so far; the rules add to them."""

    image: str
    batch: Any
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    scope: str = ""
    _seen: dict[Any, str] = field(default_factory=dict)

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        return self.add_many(kind, inputs, 1, **attributes)[0]

    def add_many(
        self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> list[str]:
        """A node with several outputs; returns their names.

        The same node of the same inputs is there once.
        """
        from onnx import helper  # pyright: ignore[reportMissingImports]

        key = (kind, tuple(inputs), outputs, str(sorted(attributes.items())))
        if key not in self._seen:
            stem = f"{self.scope or kind}/{kind}_{len(self.nodes)}"
            names = [f"{stem}.{i}" if i else stem for i in range(outputs)]
            self.nodes.append(
                helper.make_node(kind, list(inputs), names, name=stem, **attributes)
            )
            self._seen[key] = "\n".join(names)
        return self._seen[key].split("\n")

    def initializer(self, array: Any) -> str:
        """The name of a constant tensor; equal ones are there once."""
        from onnx import numpy_helper  # pyright: ignore[reportMissingImports]

        array = np.asarray(array)
        wanted = numpy_type(array.dtype)
        # Not ascontiguousarray: it makes a vector of a scalar.
        array = np.array(array, wanted, order="C")
        digest = hashlib.blake2b(array.tobytes()).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in self._seen:
            name = f"{self.scope or 'graph'}/constant_{len(self.constants)}"
            self.constants[name] = numpy_helper.from_array(array, name)
            self._seen[key] = name
        return self._seen[key]

    def integers(self, values: Sequence[int]) -> str:
        """The name of a constant int64[n]."""
        return self.initializer(np.array(values, np.int64))

    def in_order(self, value: Value, order: Sequence[int]) -> str:
        """The tensor with its axes in an order; repeated axes have length 1."""
        order = tuple(order)
        if value.array is not None:
            return self.initializer(value.array.transpose(order))
        if value.order == order:
            return value.name
        perm = [value.order.index(axis) for axis in order]
        return self.add("Transpose", [value.name], perm=perm)

    def whole(self, value: Value, order: Sequence[int] | None = None) -> str:
        """The tensor in an order (default: JAX's), repeated where it is only noted."""
        order = tuple(range(value.rank) if order is None else order)
        name = self.in_order(value, order)
        if not value.repeated:
            return name
        # ONNX's Expand leaves axes alone for which it gets a 1.
        sizes = [value.shape[axis] if axis in value.repeated else 1 for axis in order]
        return self.add("Expand", [name, self.sizes(sizes)])

    def sizes(self, shape: Sequence[Any]) -> str:
        """The name of int64[n] with a shape, of which one dimension may be symbolic."""
        if static(shape):
            return self.integers(shape)
        whole = self.add("Shape", [self.image])
        batch = self.add("Gather", [whole, self.integers([0])], axis=0)
        parts = []
        for n in shape:
            if isinstance(n, int):
                parts.append(self.integers([n]))
            else:
                factor = self.integers([multiple(n, self.batch)])
                parts.append(self.add("Mul", [batch, factor]))
        return self.add("Concat", parts, axis=0)

    def reshaped(self, name: str, shape: Sequence[Any]) -> str:
        """The tensor in another shape; one dimension may be symbolic."""
        if sum(not isinstance(n, int) for n in shape) > 1:
            raise ValueError(f"ONNX cannot reshape to {tuple(shape)}")
        sizes = [n if isinstance(n, int) else -1 for n in shape]
        return self.add("Reshape", [name, self.integers(sizes)])


def multiple(dimension: Any, batch: Any) -> int:
    """How many times the batch a symbolic dimension is.

    Raises:
      ValueError: it is no multiple.
    """
    for times in range(1, 65537):
        if same(dimension, batch * times):
            return times
    raise ValueError(f"a dimension of {dimension} is no multiple of the batch {batch}")


def numpy_type(dtype: Any) -> Any:
    """The NumPy type in which the graph holds arrays of a type.

    Raises:
      ValueError: there is none.
    """
    name = np.dtype(dtype).name
    if name == "float64":  # JAX's Python scalars in 64-bit mode
        name = "float32"
    if name not in DTYPES:
        raise ValueError(f"ONNX export has no arrays of {name}; take float32")
    return np.dtype(np.int32 if DTYPES[name] == "INT32" else name)


def onnx_type(dtype: Any) -> int:
    """ONNX's number of the type in which the graph holds arrays of a type."""
    from onnx import TensorProto  # pyright: ignore[reportMissingImports]

    return getattr(TensorProto, DTYPES[numpy_type(dtype).name])


Params = Mapping[str, Any]
