"""Weight files are data: what is read, what is refused, and that nothing runs."""

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from segjax.weights.files import read_file, read_metadata
from tests.requirements import require_parity
from tests.weights.torch_save import (
    Call,
    Storage,
    Tensor,
    contiguous,
    dump,
    save,
    torch_names,
    write_legacy,
    write_zip,
)

__all__ = ["save", "torch_names"]  # fixtures
RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "a.half": RNG.normal(size=(5,)).astype(np.float16),
    "b.brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    "b.num_batches_tracked": np.array(7),
    "b.empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
}


def refused(path, words="."):
    """The file is refused by one line that names it."""
    with pytest.raises(ValueError, match=words) as error:
        read_file(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, torch: state,
        lambda state, torch: {"state_dict": state, "epoch": 3, "best": 0.5},
        lambda state, torch: {"model": state, "args": {"sizes": [1, (2, None)]}},
        lambda state, torch: {"model_state_dict": state, "epoch": 3},
        lambda state, torch: OrderedDict(
            epoch=3, shape=Call(torch.Size, (2, 3)), state_dict=OrderedDict(state)
        ),
    ],
)
def test_both_formats_without_torch(save, torch_names, wrap, protocol):
    state = {name: contiguous(array) for name, array in ARRAYS.items()}
    assert_same(read_file(save(wrap(state, torch_names), protocol=protocol)), ARRAYS)


def test_views_share_a_storage(save):
    block = Storage(np.arange(10, dtype=np.float32))
    path = save(
        {
            "transposed": Tensor(block, 1, (2, 3), (1, 2)),
            "scalar": Tensor(block, 9, (), ()),
            "expanded": Tensor(block, 3, (2, 2), (0, 1)),
            "none": Tensor(block, 10, (0,), (1,)),
        }
    )
    found = read_file(path)
    np.testing.assert_array_equal(found["transposed"], [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(found["expanded"], [[3, 4], [3, 4]])
    assert found["scalar"] == 9 and found["none"].shape == (0,)


FOUR = np.zeros(4, np.float32)
STATE = {"w": contiguous(FOUR)}


@pytest.mark.parametrize(
    "content, words",
    [
        ({"a": Tensor(Storage(FOUR), 2, (3,), (1,))}, "reaches beyond its storage"),
        ({"a": Tensor(Storage(FOUR), 0, (2, 2**62), (1, 1))}, "reaches beyond"),
        ({"a": Tensor(Storage(FOUR), 0, (3,), (-1,))}, "an impossible shape"),
        ({"a": Tensor(Storage(FOUR), 0, (-3,), (1,))}, "an impossible shape"),
        ({"a": Tensor(Storage(FOUR), 0, (2, 2), (1,))}, "an impossible shape"),
        ({"a": Tensor(Storage(FOUR), 0, (True,), (1,))}, "an impossible shape"),
        ({"a": Tensor(Storage(FOUR), 0, 3, (1,))}, "its pickle is damaged"),
        ({"a": Tensor("storage", 0, (3,), (1,))}, "a tensor has no storage"),
        ({"a": contiguous(FOUR), "b": 3}, r"its keys: 'a' \(Tensor\), 'b' \(int\)"),
        ({"a": contiguous(FOUR), 3: contiguous(FOUR)}, "holds no state dict"),
        (
            {"net": STATE},
            r"or .model_state_dict.; its keys: .net. \(dict\)",
        ),
        (
            {"model": STATE, "state_dict": STATE},
            "under 'state_dict' or 'model' or 'model_state_dict' alone",
        ),
        ({str(k): k for k in range(99)}, r"'19' \(int\) and 79 more"),
        ([1, 2], "holds no state dict .* but a list"),
        ({}, "its keys: none"),
    ],
)
def test_impossible_contents(save, content, words):
    refused(save(content), words)


@pytest.mark.parametrize("count", [3, 5, 2**40, 2**62, -1])
def test_a_storages_size_that_lies(save, count):
    block = Storage(FOUR, count=count)
    words = "cut short|another size|an impossible size|belong to nothing"
    refused(save({"a": Tensor(block, 0, (3,), (1,))}), words)


def test_two_sizes_of_one_storage(torch_names, tmp_path):
    two = Storage(FOUR, key="0"), Storage(FOUR, count=2, key="0")
    content = {str(i): Tensor(b, 0, (2,), (1,)) for i, b in enumerate(two)}
    path = write_zip(tmp_path / "a.pth", *dump(torch_names, content, False))
    refused(path, "storage 0 contradicts itself")


def test_a_zip_that_unfolds_is_not_unfolded(torch_names, tmp_path):
    block = Storage(np.zeros(10_000_000, np.float32))
    content = {"a": Tensor(block, 0, (1,), (1,))}
    data, blocks = dump(torch_names, content, False)
    path = tmp_path / "a.pth"
    write_zip(path, data, blocks, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, "is compressed: not of torch.save")


@pytest.mark.parametrize("protocol", [1, 2, 4])
@pytest.mark.parametrize(
    "name, make",
    [
        ("mkdir", lambda victim: Call(os.mkdir, victim)),
        ("system", lambda victim: Call(os.system, f"touch {victim}")),
        ("builtins.eval", lambda victim: Call(eval, f"open({victim!r}, 'w')")),
        ("loads", lambda victim: Call(pickle.loads, b".")),
        ("builtins.getattr", lambda victim: Call(getattr, "text", "join")),
        ("builtins.exec", lambda victim: {"x": [(Call(exec, f"open({victim!r})"),)]}),
        ("functools.partial", lambda victim: partial(os.mkdir, victim)),
        ("builtins.getattr", lambda victim: Call(getattr, Call(eval, "1"), "real")),
    ],
)
@pytest.mark.parametrize("place", ["state", "beside", "instead"])
def test_a_malicious_file_is_named_and_not_executed(
    save, tmp_path, name, make, protocol, place
):
    victim = tmp_path / "executed"
    value = make(str(victim))
    content = {
        "state": {"a": contiguous(FOUR), "b": value},
        "beside": {"state_dict": STATE, "optimizer": [value]},
        "instead": value,
    }[place]
    text = refused(save(content, protocol=protocol), "nothing was executed")
    assert name.replace("builtins", "") in text.replace("__builtin__", "")
    assert not victim.exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        opcodes(REBUILD, b"}X\x01\x00\x00\x00aK\x01sb"),  # sets an attribute (BUILD)
        opcodes(REBUILD, b"N}X\x01\x00\x00\x00aK\x01s\x86b"),  # as slots
        opcodes(b"ccollections\nOrderedDict\n", b"}X\x01\x00\x00\x00aK\x01sb"),
        opcodes(b"ctorch\nFloatStorage\n", b"}X\x01\x00\x00\x00aK\x01sb"),
        opcodes(b"ctorch\nfloat32\n", b"(t", b"R"),  # calls a name
        opcodes(b"ctorch.storage\n_load_from_bytes\n", b"U\x01.\x85R"),
        opcodes(b"ctorch.storage\nUntypedStorage\n"),
        opcodes(b"]r", struct.pack("<I", 2**32 - 1)),  # a memo of 64 GB
        opcodes(b"\x8e", struct.pack("<Q", 2**62)),  # that many bytes follow
        opcodes(b"\x84\x01\x00\x00\x00"),  # copyreg's extensions
        opcodes(b"X\x03\x00\x00\x00sixQ"),  # a persistent id that is no tuple
        opcodes(b"(l" * 50_000, b"a" * 10),
        opcodes(b"0"),
        opcodes(b"\xff"),
        opcodes(b"X\x02\x00\x00\x00\xff\xff"),  # not UTF-8
        b"",
    ],
)
def test_pickles_that_torch_never_wrote(tmp_path, data, legacy):
    write = write_legacy if legacy else write_zip
    refused(write(tmp_path / "a.pth", data, {}), "pickle|state dict")


def test_whatever_is_handed_to_a_pickle_stays_as_it_is(save):
    good = read_file(save(STATE))
    assert_same(read_file(save(STATE)), good)


def test_other_byte_orders(torch_names, tmp_path):
    content = dump(torch_names, STATE, True)
    refused(write_legacy(tmp_path / "a.pth", *content, little=False), "byte order big")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.git"])
def test_no_weights_at_all(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    refused(path, "there is no such file")
    path.write_bytes(content)
    refused(path, "neither a safetensors file nor|safetensors|header|Header")


def test_torchscript_by_hand(torch_names, tmp_path):
    content = dump(torch_names, STATE, False)
    path = write_zip(tmp_path / "a.pt", *content, extra=["code/x.py", "constants.pkl"])
    refused(path, "a TorchScript program.*state_dict")


def lengths(size):
    """Ends, and places in between."""
    return sorted({*range(40), *range(0, size, max(size // 60, 1)), size - 1, size - 9})


def test_cut_short_at_many_lengths(save):
    path = save({name: contiguous(array) for name, array in ARRAYS.items()})
    whole = path.read_bytes()
    for size in lengths(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)


def test_flipped_bytes_are_refused_or_harmless(save):
    path = save({name: contiguous(array) for name, array in ARRAYS.items()})
    whole = path.read_bytes()
    for at in RNG.integers(0, len(whole), 200):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(RNG.integers(8))
        path.write_bytes(broken)
        try:
            found = read_file(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())


def header(content, data=b"", length=None):
    """A safetensors file by hand."""
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": entry(offsets=(0, 16))}, bytes(8)),  # beyond the file
        header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),  # overlapping
        header({"a": entry(), "b": entry()}, bytes(8)),  # the same bytes twice
        header({"a": entry(offsets=(8, 0))}, bytes(8)),
        header({"a": entry()}, bytes(8), length=2**62),
        header({"a": entry()}, bytes(8), length=5),
        header({"a": entry()}, bytes(8), length=10**7),
        header({"a": entry("F64")}, bytes(8)),  # another size than its type's
        header({"a": entry("F33")}, bytes(8)),
        header({"a": entry(shape=(-2,))}, bytes(8)),
        header({"a": entry(shape=(2**40, 2**40))}, bytes(8)),
        header({"a": entry(shape=(2**63, 2))}, bytes(8)),
        header({"a": entry(offsets=(-8, 0))}, bytes(8)),
        header({"a": 3}, bytes(8)),
        header([1], bytes(8)),
        header({"a": entry()}, bytes(12)),  # bytes that belong to nothing
    ],
)
def test_a_safetensors_header_that_lies(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path)


def test_safetensors_types_and_lengths(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"segjax": "x"})
    assert_same(read_file(path), ARRAYS)
    assert read_metadata(path) == {"segjax": "x"}
    whole = path.read_bytes()
    other = path.rename(tmp_path / "renamed.pth")
    assert_same(read_file(other), ARRAYS)
    for size in lengths(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)


@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves(tmp_path, new):
    torch = require_parity("torch")
    path = tmp_path / "a.pth"
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        view=base[1:3, ::2],
        transposed=base.t(),
        expanded=torch.ones(1).expand(3),
        half=base.half(),
        brain=base.bfloat16(),
        double=base.double(),
        byte=base.byte(),
        truth=base > 3,
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 2),
        parameter=torch.nn.Parameter(base[:2].clone()),
    )
    state._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    content = {"state_dict": state, "size": torch.Size((1, 2)), "dtype": torch.float16}
    content |= {"optimizer": {"state": {0: {"step": 3, "m": base}}, "lr": 0.1}}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    found = read_file(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        wanted = tensor.detach().to(torch.float64)
        np.testing.assert_array_equal(found[name].astype(np.float64), wanted.numpy())
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch.")


@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_besides_weights_is_refused(tmp_path, new):
    torch = require_parity("torch")
    path = tmp_path / "a.pth"
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for content, words in (
        (network, "torch.nn.modules.container.Sequential"),
        (network[0].weight, "holds no state dict .* but a Tensor"),
        ({"model": network}, "torch.nn.modules.container.Sequential"),
        ({"a": torch.zeros(2).untyped_storage()}, "no state dict|torch.storage"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=new)
        refused(path, words)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript(tmp_path):
    torch = require_parity("torch")
    path = tmp_path / "a.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    refused(path, "a TorchScript program")
