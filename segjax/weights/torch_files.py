"""The two formats of torch.save, opened without PyTorch."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from segjax.weights.pickles import Storage, read_pickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


class Content(NamedTuple):
    """What a file holds, and the function storage's key -> its bytes."""

    value: Any
    read: Callable[[str], bytes]


@contextmanager
def open_torch(path: Path) -> Iterator[Content]:
    """The content of a .pth or .pt file: the zip format (since 1.6) or the legacy one.

    Raises:
      pickle.UnpicklingError: it is neither, damaged, or names what is not to be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"PK":
            if not zipfile.is_zipfile(path):
                raise pickle.UnpicklingError("a zip file that is cut short")
            with zipfile.ZipFile(file) as archive:
                yield _open_zip(archive)
        elif start[:1] == b"\x80":
            yield _open_legacy(file)
        else:
            raise pickle.UnpicklingError(
                "neither a safetensors file nor one of torch.save, or cut short"
            )


def _open_zip(archive: zipfile.ZipFile) -> Content:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise pickle.UnpicklingError(
            "a TorchScript program, not weights alone; in PyTorch: "
            "torch.save(torch.jit.load(FILE).state_dict(), ...)"
        )
    pickles = [name for name in names if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("no data.pkl inside: not a file of torch.save")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> zipfile.ZipInfo:
        info = archive.getinfo(folder + name)
        # torch.save never compresses; a few bytes cannot unfold to gigabytes then.
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"{name} is compressed: not of torch.save")
        return info

    if f"{folder}byteorder" in names:
        order = archive.read(member("byteorder")).decode(errors="replace")
        if order != "little":
            raise pickle.UnpicklingError(f"byte order {order!r}; only little is read")
    with archive.open(member("data.pkl")) as file:
        value, _ = read_pickle(file)  # type: ignore[arg-type]
    return Content(value, lambda key: archive.read(member(f"data/{key}")))


def _open_legacy(file: BinaryIO) -> Content:
    """Pickles: magic number, protocol, system, object, keys; then the storages."""
    magic, protocol, system, (value, storages), keys = (
        read_pickle(file) if i == 3 else read_pickle(file)[0] for i in range(5)
    )
    if magic != MAGIC_NUMBER or protocol != 1001 or not isinstance(system, dict):
        raise pickle.UnpicklingError("a pickle, but not of torch.save")
    if system.get("little_endian") is not True:
        raise pickle.UnpicklingError("byte order big; only little is read")
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise pickle.UnpicklingError("its list of storages does not fit its tensors")
    places = _places(file, [storages[key] for key in keys])

    def read(key: str) -> bytes:
        start, size = places[key]
        file.seek(start)
        return file.read(size)

    return Content(value, read)


def _places(file: BinaryIO, storages: list[Storage]) -> dict[str, tuple[int, int]]:
    """Where each storage's bytes begin and how many they are: after its int64 count."""
    at = file.tell()
    end = file.seek(0, 2)
    places = {}
    for storage in storages:
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        size = storage.total * storage.dtype.itemsize
        if count != storage.total or at + 8 + size > end:
            raise pickle.UnpicklingError(f"storage {storage.key} is cut short")
        places[storage.key] = at + 8, size
        at += 8 + size
    if at != end:
        raise pickle.UnpicklingError(f"{end - at} bytes at its end belong to nothing")
    return places
