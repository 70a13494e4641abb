"""Which files a user means, and under what names their outputs go, safely.

Files, folders (with all below), patterns, and lists on standard input. Every output
name is a relative path without "..", and no two outputs have the same.
"""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segjax.batch import Source
from segjax.data import files, video
from segjax.data.pipeline import finite
from segjax.names import output_names

IMAGES = (
    *files.EXTENSIONS,
    *(".jfif", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".tga"),
)
"""What is read in a folder; a file that is named itself may be called anything."""

_PASSED = (*video.EXTENSIONS, *files.UNREAD)
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Item:
    """A file to read, and the name of what is written for it (no suffix).

    A video's name is that of a folder, for its frames.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file holds frames."""
        return video.is_video(self.path)


def find(
    wanted: Sequence[str],
    output: Path,
    endings: Sequence[str],
    lines: Iterable[str] = (),
) -> tuple[list[Item], Counter[str]]:
    """The files that are meant, in order, each once, and their outputs' names.

    A name is the file's path below the folder that all have in common. A file that is
    listed but not there is an item like others: reading it will say so.

    Args:
      wanted: paths of files and folders, patterns ("photos/**/*.jpg"), or "-": a path
        in each of ``lines``.
      output: nothing in this folder is input, unless it is named.
      endings: of the files written for an item, "" among them.
      lines: standard input.

    Returns:
      The items, and how many files of a folder were passed over, by their ending:
      videos, which have to be named themselves, and pictures that are not read.

    Raises:
      ValueError: an input does not exist, or there is no image; an output would
        overwrite an input.
    """
    found: dict[str, str] = {}  # path -> the folder it was found through
    passed: Counter[str] = Counter()
    for text in wanted:
        for path, root in _read(text, lines):
            if not os.path.isdir(path):
                found.setdefault(path, root)
                continue
            if os.path.realpath(path) == os.path.realpath(output):
                raise ValueError(
                    f"--output {output}: is --input, too; write to another folder"
                )
            inside = list(_walk(path, os.path.realpath(output)))
            images = [p for p in inside if p.lower().endswith(IMAGES)]
            others = Counter(
                ending
                for p in inside
                if (ending := os.path.splitext(p)[1].lower()) in _PASSED
            )
            passed += others
            if not images and text != "-":
                raise ValueError(
                    f"--input {text}: no image in this folder (looked for "
                    f"{', '.join(IMAGES)}){''.join(f'; {t}' for t in advice(others))}"
                )
            for image in images:
                found.setdefault(image, path)
    if not found:
        raise ValueError(f"--input {' '.join(wanted)}: names no file")
    base = os.path.commonpath(found.values())
    paths = [Path(p) for p in found]
    names = output_names(
        [PurePosixPath(p.relative_to(base).as_posix()) for p in paths],
        endings,
        [video.is_video(p) for p in paths],
    )
    items = [Item(path, name) for path, name in zip(paths, names, strict=True)]
    _spare(items, output, endings)
    return items, passed


def advice(passed: Mapping[str, int]) -> list[str]:
    """What to do about files that :func:`find` passed over, a text for each kind."""
    videos = sum(passed.get(ending, 0) for ending in video.EXTENSIONS)
    texts = []
    if videos:
        texts.append(f"videos ({videos}) are passed over; name them to label frames")
    pictures = [
        f"{passed[ending]} {ending}" for ending in files.UNREAD if ending in passed
    ]
    if pictures:
        texts.append(f"{', '.join(pictures)} are not read; convert them to PNG or TIFF")
    return texts


def _read(text: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(absolute path, root folder) of everything one ``--input`` names."""
    if text == "-":
        for line in lines:
            if path := line.strip("\r\n"):
                path = os.path.abspath(path)
                yield path, path if os.path.isdir(path) else os.path.dirname(path)
    elif os.path.exists(text):
        path = os.path.abspath(text)
        yield path, path if os.path.isdir(path) else os.path.dirname(path)
    elif _MAGIC & set(text):
        fixed = itertools.takewhile(lambda p: not _MAGIC & set(p), Path(text).parts)
        root = os.path.abspath(os.path.join("", *fixed))
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise ValueError(f"--input {text}: no file matches")
        # "**" also matches the folders on the way, whose files it has matched already.
        deep = "**" in text
        for match in matches:
            if not (deep and os.path.isdir(match)):
                yield os.path.abspath(match), root
    else:
        raise ValueError(f"--input {text}: there is no such file or folder")


def _walk(folder: str, output: str) -> Iterator[str]:
    """Every file below a folder, sorted; nothing hidden, nothing below ``output``."""
    for here, folders, names in os.walk(folder):
        if os.path.realpath(here) == output:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(here, name)


def _spare(items: Sequence[Item], output: Path, endings: Sequence[str]) -> None:
    """Refuse to write over what is read."""
    read = {os.path.realpath(item.path): item.path for item in items}
    for item in items:
        for end in endings:
            written = os.path.realpath(output / f"{item.name}{end}.png")
            if written in read:
                raise ValueError(
                    f"--output {output}: {read[written]} would be overwritten by the "
                    f"labels of {item.path}; write to another folder"
                )


@dataclass(frozen=True)
class Entry:
    """An image to label: the name of its outputs, what is said of it, how it is read.

    ``read()`` returns the image [h, w, C] and its true labels uint8[h, w] or None.
    """

    name: str
    about: dict[str, Any]
    read: Callable[[], tuple[np.ndarray, np.ndarray | None]]


def file_entries(items: Sequence[Item], channels: int, every: int) -> Iterator[Entry]:
    """Entries of files; a video has one for each frame."""

    def image(path: Path):
        # Raw photographs are TIFFs, whose first image is a thumbnail.
        if (ending := path.suffix.lower()) in files.UNREAD:
            raise ValueError(f"{path}: {ending} is not read; convert it to PNG or TIFF")
        return finite(files.read_image(path, channels), str(path)), None

    def frame(pixels: np.ndarray, path: Path):
        if channels != pixels.shape[2]:
            raise ValueError(f"{path}: videos have 3 channels, but {channels} are read")
        return pixels, None

    def fail(error: ValueError):
        raise error

    for item in items:
        about = {"image": str(item.path)}
        if not item.is_video:
            yield Entry(item.name, about, partial(image, item.path))
            continue
        try:
            for number, seconds, pixels in video.read_frames(item.path, every):
                of_frame = about | {"frame": number, "seconds": seconds}
                read = partial(frame, pixels, item.path)
                yield Entry(f"{item.name}/{number:06d}", of_frame, read)
        except ValueError as error:
            yield Entry(item.name, about, partial(fail, error))


def split_entries(source: Source, endings: Sequence[str]) -> Iterator[Entry]:
    """Entries of a split's examples, with their true labels; ``endings``: see find."""

    def read(index: int):
        example = source[index]
        return finite(example["image"], example["id"]), example["label"]

    ids = [str(name) for name in source.ids()]
    paths = [PurePosixPath(f"{name}.png") for name in ids]
    for index, name in enumerate(output_names(paths, endings)):
        yield Entry(name, {"image": ids[index]}, partial(read, index))
