"""Pickles of torch.save, read as data: tensors and containers, nothing is executed."""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DTYPES = frozenset(
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
)


class Storage(NamedTuple):
    """A block of ``count`` elements whose bytes lie elsewhere under ``key``.

    ``total`` elements lie there; the block begins at the element ``start``.
    """

    key: str
    dtype: np.dtype
    total: int
    start: int
    count: int


class Tensor(NamedTuple):
    """A strided view of a storage, in elements; no bytes have been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytearray) -> np.ndarray:
        """The array in its storage's bytes."""
        dtype = self.storage.dtype
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        flat = np.frombuffer(data, dtype)[self.storage.start + self.offset :]
        strides = [step * dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)


class Name(NamedTuple):
    """A class or a constant that a pickle may name; it does nothing."""

    name: str


# No attributes that a pickle could set (BUILD): what is handed out must not change.
class _RebuildTensor:
    """torch._utils._rebuild_tensor_v2: a checked view of its storage."""

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *rest) -> Tensor:
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor has no storage")
        shape, strides = tuple(size), tuple(stride)
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or any(
            type(n) is not int or n < 0 for n in numbers
        ):
            raise pickle.UnpicklingError("a tensor has an impossible shape")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return Tensor(storage, offset, shape, strides)


class _RebuildParameter:
    """torch._utils._rebuild_parameter: its tensor."""

    __slots__ = ()

    def __call__(self, data, *rest) -> Tensor:
        if not isinstance(data, Tensor):
            raise pickle.UnpicklingError("a parameter is no tensor")
        return data


NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    **{("torch", name): Name(name) for name in (*STORAGES, *DTYPES)},
}


class _Unpickler(pickle.Unpickler):
    """Knows the NAMES; any other is an error."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in NAMES:
            return NAMES[module, name]
        raise pickle.UnpicklingError(
            f"its pickle asks for {module}.{name}; only tensors and containers are "
            "read, and nothing was executed; save model.state_dict() alone"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """("storage", class, key, device, count[, None or (key, start, count)])."""
        known = isinstance(pid, tuple) and 5 <= len(pid) <= 6 and pid[0] == "storage"
        kind = pid[1] if known else None
        if not isinstance(kind, Name) or kind.name not in STORAGES:
            raise pickle.UnpicklingError("its pickle refers to something unknown")
        key, total = pid[2], pid[4]
        _, start, count = (pid[5] if len(pid) == 6 else None) or (None, 0, total)
        if not isinstance(key, str) or any(
            type(n) is not int or n < 0 for n in (total, start, count)
        ):
            raise pickle.UnpicklingError("a storage has an impossible size")
        found = Storage(key, STORAGES[kind.name], total, start, count)
        same = self.storages.setdefault(key, found)
        if start + count > total or (same.dtype, same.total) != (found.dtype, total):
            raise pickle.UnpicklingError(f"storage {key} contradicts itself")
        return found


def read_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of a file: what it holds, and the storages that it refers to.

    Raises:
      pickle.UnpicklingError: it is damaged, or names anything but tensors and
        containers.
    """
    start = file.tell()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            # Python would allocate a memo as long as the number says.
            lies = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (
                not isinstance(argument, int) or argument > file.tell()
            )
            if lies or opcode.name.startswith("EXT"):
                raise pickle.UnpicklingError("its pickle is not one of torch.save")
        size = file.tell() - start
        file.seek(start)
        unpickler = _Unpickler(file.read(size))
        return unpickler.load(), unpickler.storages
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # what a damaged pickle raises may be anything
        text = f"{type(error).__name__}: {error}"
        raise pickle.UnpicklingError(f"its pickle is damaged ({text})") from error


def arrays(content: dict[str, Tensor], read: Callable[[str], bytes]) -> dict:
    """Arrays of the tensors, whose bytes are ``read(key)`` (once for each storage)."""
    found, data = {}, {}
    for name, tensor in content.items():
        storage = tensor.storage
        if storage.key not in data:
            data[storage.key] = bytearray(read(storage.key))  # to be written to
            if len(data[storage.key]) != storage.total * storage.dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {storage.key} has another size")
        found[name] = tensor.array(data[storage.key])
    return found
