"""Sizes and checksums of a checkpoint's files, so that damage is seen."""

import json
import zlib
from collections.abc import Iterator

import jax
from etils import epath

DIGEST = "digest.json"  # {file: [bytes, crc32]}


def files_in(folder: epath.Path, inside: str) -> Iterator[str]:
    """The files below ``folder / inside``, as paths within ``folder``."""
    for path in sorted((folder / inside).iterdir()):
        name = f"{inside}/{path.name}"
        if path.is_dir():
            yield from files_in(folder, name)
        else:
            yield name


def size_and_checksum(path: epath.Path) -> list[int]:
    """[bytes, crc32] of a file, read a megabyte at a time."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def find_damage(folder: epath.Path) -> str | None:
    """What is wrong with a checkpoint's files; each process looks at its share."""
    path = folder / DIGEST
    if not path.exists():  # written by other hands: orbax will see what it sees
        return None
    try:
        digest = json.loads(path.read_text())
        entries = [(name, size, crc) for name, (size, crc) in sorted(digest.items())]
    except (OSError, ValueError, AttributeError, TypeError):
        return f"{DIGEST} cannot be read"
    for name, size, crc in entries[jax.process_index() :: jax.process_count()]:
        if not (folder / name).exists():
            return f"{name} is missing"
        found = size_and_checksum(folder / name)
        if found[0] != size:
            return f"{name} has {found[0]} bytes instead of {size}"
        if found[1] != crc:
            return f"{name} has changed since it was written"
    return None
