"""Reading weight files as data: nothing in them is ever executed."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

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


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file or of torch's zip format (.pth, .pt).

    Raises:
      ValueError: the file is missing, damaged, of another kind, or its pickle names
        anything but tensors and containers; names the file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load_file(path)
        except Exception as error:  # the library raises its own and built-in kinds
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: neither .safetensors nor torch's zip format (torch.save since "
            "1.6), or cut short; save it again with one of the two"
        )
    try:
        content = _read_zip(path)
    except (zipfile.BadZipFile, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: {error}") from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, np.ndarray]:
    """The mapping of names to tensors in what the pickle held."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray)
        for name, value in content.items()
    ):
        raise ValueError(f"{path}: does not hold a state dict (names -> tensors)")
    return dict(content)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("no data.pkl inside: not a file of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder").decode()
            if order != "little":
                raise pickle.UnpicklingError(f"byte order {order}; only little is read")
        with archive.open(pickles[0]) as file:
            return _TensorUnpickler(file, archive, folder).load()


class _Storage:
    """A typed block of bytes; stands for torch's storage classes as well."""

    def __init__(self, dtype: np.dtype, data: bytes = b""):
        self.dtype = dtype
        self.data = data


def _rebuild_tensor(storage, offset, size, stride, *rest):
    """torch._utils._rebuild_tensor_v2 as a NumPy array: a checked strided view."""
    flat = np.frombuffer(storage.data, storage.dtype)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(
        not isinstance(n, int) or n < 0 for n in numbers
    ):
        raise pickle.UnpicklingError("a tensor has an impossible shape")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if last >= flat.size:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    step = storage.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        flat[offset:], size, [s * step for s in stride], writeable=False
    )
    return view.copy()


def _rebuild_parameter(data, requires_grad, hooks):
    """torch._utils._rebuild_parameter: its tensor."""
    return data


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dicts; any other name is an error."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file, encoding="utf-8")
        self.archive = archive
        self.folder = folder

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(
            f"its pickle asks for {module}.{name}; only tensors and containers are "
            "read, and nothing was executed"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not (
            isinstance(pid, tuple)
            and len(pid) == 5
            and pid[0] == "storage"
            and isinstance(pid[1], np.dtype)
        ):
            raise pickle.UnpicklingError("its pickle refers to something unknown")
        _, dtype, key, _, count = pid
        data = self.archive.read(f"{self.folder}data/{key}")
        if len(data) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} is cut short")
        return _Storage(dtype, data)
