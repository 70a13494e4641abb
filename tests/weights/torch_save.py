"""torch.save's two formats, written by names alone: torch is not needed."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.bool_): "BoolStorage",
}


class Storage:
    """A torch storage to be pickled: by persistent id, its bytes beside.

    ``count`` and ``key`` may lie.
    """

    def __init__(self, array, count=None, key=None):
        self.array = array
        self.count = array.size if count is None else count
        self.key = key


class Tensor:
    """Pickles as a torch tensor does."""

    def __init__(self, storage, offset, size, stride):
        self.parts = storage, offset, size, stride, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class Call:
    """Pickles as a call of the function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def contiguous(array):
    """The array as a tensor with a storage of its own."""
    stride = np.empty(array.shape, np.int8).strides
    return Tensor(Storage(np.ascontiguousarray(array)), 0, array.shape, stride)


@pytest.fixture
def torch_names(monkeypatch):
    """Modules that have the names which torch's pickles mention, and do nothing."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    for name in (*KINDS.values(), "Size"):
        setattr(torch, name, type(name, (tuple,), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def dump(torch, content, legacy, protocol=2):
    """(pickle of the content, its storages by key)."""
    blocks = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            key = obj.key
            if key is None:
                known = {id(b): k for k, b in blocks.items()}
                key = known.get(id(obj), str(len(blocks)))
            blocks[key] = obj
            kind = getattr(torch, KINDS[obj.array.dtype])
            pid = "storage", kind, key, "cpu", obj.count
            return (*pid, None) if legacy else pid

    file = io.BytesIO()
    Pickler(file, protocol).dump(content)
    return file.getvalue(), blocks


def write_zip(path, data, blocks, folder="weights", compression=0, extra=()):
    """The format since torch 1.6."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", data)
        archive.writestr(f"{folder}/byteorder", "little")
        for key, block in blocks.items():
            archive.writestr(f"{folder}/data/{key}", block.array.tobytes())
        for name in extra:
            archive.writestr(f"{folder}/{name}", "")
    return path


def write_legacy(path, data, blocks, little=True):
    """The format before it, and of _use_new_zipfile_serialization=False."""
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    with path.open("wb") as file:
        for value in (MAGIC, 1001, system):
            pickle.dump(value, file, 2)
        file.write(data)
        pickle.dump(sorted(blocks), file, 2)
        for key in sorted(blocks):
            file.write(struct.pack("<q", blocks[key].count))
            file.write(blocks[key].array.tobytes())
    return path


@pytest.fixture(params=["zip", "legacy"])
def save(request, torch_names, tmp_path):
    """save(content) -> the path of a .pth file, in each of the two formats."""

    def write(content, **options):
        legacy = request.param == "legacy"
        protocol = options.pop("protocol", 2)
        data, blocks = dump(torch_names, content, legacy, protocol)
        write = write_legacy if legacy else write_zip
        return write(tmp_path / "weights.pth", data, blocks, **options)

    return write
