"""One example: what is wrong with its image and its mask, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from segjax.batch import IGNORE, Example
from segjax.data import files
from segjax.data.inspection import masks
from segjax.data.inspection.codes import Fault
from segjax.data.inspection.header import FORMATS, Header, read_header
from segjax.data.inspection.similar import digest, thumbnail
from segjax.data.pairs import Meaning, Stored

TINY, LONG = 16, 5  # pixels of the shorter side; longer over shorter side
_DARK = 65536 // 16
_FAR = 4.0  # float values in [0, 1] are expected; overshoot is not worth a word


@dataclass
class Facts:
    """What was found out about one example."""

    split: str
    id: str
    image: str = ""  # names of the files
    mask: str = ""
    faults: list[Fault] = field(default_factory=list)
    size: tuple[int, int] | None = None
    channels: int = 0
    dtype: str = ""
    constant: bool = False
    opaque: bool = False  # its last channel is an alpha channel without content
    image_digest: bytes = b""
    mask_digest: bytes = b""
    thumb: np.ndarray | None = None
    # Pixels per stored id, where the mask could be read as ids; or 1 for its class.
    stored: np.ndarray | None = None
    # Share of class 1 of two: on the mask's frame, and everywhere.
    frame: float | None = None
    area: float | None = None

    def add(self, code: str, where: str, text: str = "") -> None:
        """Note a fault."""
        self.faults.append(Fault(code, where, text))


def examine(
    split: str, load: Callable[[], Stored | Example], meaning: Meaning
) -> Facts:
    """Look at one example.

    Args:
      split: its split.
      load: gives its two files, or the example itself where there are no files.
      meaning: of its mask.
    """
    try:
        stored = load()
    except ValueError as error:
        facts = Facts(split, "")
        facts.add("image-unreadable", str(error).split(":")[0], str(error))
        return facts
    if not isinstance(stored, Stored):
        facts = Facts(split, stored["id"], stored["id"], stored["id"])
        _look_at_image(facts, stored["image"])
        if stored["label"].ndim:
            _look_at_ids(facts, stored["label"], meaning)
        else:
            _look_at_class(facts, int(stored["label"]), meaning)
        return facts
    facts = Facts(split, stored.id, stored.image_name, stored.mask_name)
    image_header, image = _image(facts, stored)
    if stored.label is not None:
        _look_at_class(facts, stored.label, meaning)
        return facts
    mask_header, mask = _mask(facts, stored, meaning)
    if image_header and mask_header:
        _compare_sizes(facts, image_header, mask_header)
    if image is not None and mask is not None and _same(image, mask):
        facts.add("mask-is-image", facts.mask, f"{facts.mask} is {facts.image}")
    return facts


def _header(facts: Facts, file: files.File, name: str, what: str) -> Header | None:
    try:
        header = read_header(file)
    except ValueError as error:
        _unreadable(facts, name, what, error)
        return None
    ending = PurePath(name).suffix.lower()
    usual = FORMATS.get(ending, ()) if not isinstance(file, bytes) else ()
    if header.format and usual and header.format not in usual:
        facts.add("file-misnamed", name, f"{name} is a {header.format} file")
    if header.frames > 1:
        facts.add("frames-many", name, f"{name} holds {header.frames} images")
    return header


def _unreadable(facts: Facts, name: str, what: str, error: ValueError) -> None:
    large = isinstance(error, files.TooLarge)
    text = str(error).replace("<bytes>", name)
    facts.add("file-too-large" if large else f"{what}-unreadable", name, text)


def _image(facts: Facts, stored: Stored) -> tuple[Header | None, np.ndarray | None]:
    name = stored.image_name
    header = _header(facts, stored.image, name, "image")
    if header is None:
        return None, None
    try:
        image = files.read_image(stored.image, name=name)
    except ValueError as error:
        _unreadable(facts, name, "image", error)
        return header, None
    if header.mode == "CMYK":
        facts.add("image-cmyk", name)
    _look_at_image(facts, image)
    height, width = image.shape[:2]
    if min(height, width) < TINY:
        facts.add("size-tiny", name, f"{name} is {height} x {width}")
    elif max(height, width) > LONG * min(height, width):
        facts.add("aspect-extreme", name, f"{name} is {height} x {width}")
    alpha = header.mode in ("RGBA", "LA", "PA") and image.shape[2] in (2, 4)
    facts.opaque = alpha and bool((image[:, :, -1] == image[0, 0, -1]).all())
    return header, image


def _look_at_image(facts: Facts, image: np.ndarray) -> None:
    name = facts.image
    height, width, facts.channels = image.shape
    facts.size, facts.dtype = (height, width), image.dtype.name
    low, high = image.min(), image.max()
    if image.dtype.kind == "f" and not np.isfinite([low, high]).all():
        wrong = int((~np.isfinite(image)).any(axis=2).sum())
        facts.add("image-nan", name, f"{name}: {wrong} of {height * width} pixels")
    elif low == high:
        facts.constant = True
        facts.add("image-constant", name, f"{name}: all values are {low}")
    elif image.dtype == np.uint16 and high < _DARK:
        facts.add("image-dark", name, f"{name}: the largest value is {high} of 65535")
    elif image.dtype.kind == "f" and max(abs(low), abs(high)) > _FAR:
        facts.add("image-range", name, f"{name}: values from {low:g} to {high:g}")
    facts.image_digest = digest(image)
    facts.thumb = None if facts.constant else thumbnail(image)


def _mask(
    facts: Facts, stored: Stored, meaning: Meaning
) -> tuple[Header | None, np.ndarray | None]:
    """The header and what the mask holds, its ids or colours."""
    name = stored.mask_name
    content = stored.mask or b""
    header = _header(facts, content, name, "mask")
    if header is None:
        return None, None
    if header.lossy:
        facts.add("mask-lossy", name, f"{name} is a {header.format} file")
    try:
        if meaning.red:
            array = files.read_image(content, name=name)[:, :, 0]
        else:
            array = files.stored_mask(content, meaning.values, name=name)
    except ValueError as error:
        _unreadable(facts, name, "mask", error)
        return header, None
    for fault in masks.alpha(array, name):
        facts.faults.append(fault)
    if header.palette is not None and array.ndim == 2:
        facts.faults += masks.palette(array, header.palette, meaning, name)
    ids, faults = masks.to_ids(array, meaning, name)
    facts.faults += faults
    if ids is not None:
        _look_at_ids(facts, ids, meaning)
    return header, array


def _look_at_class(facts: Facts, label: int, meaning: Meaning) -> None:
    if not 0 <= label < meaning.spec.num_classes:
        facts.add("class-unknown", facts.image, f"{facts.image} is of class {label}")
    else:
        facts.stored = np.bincount([label], minlength=meaning.spec.num_classes)
        facts.mask_digest = digest(np.array(label))


def _look_at_ids(facts: Facts, ids: np.ndarray, meaning: Meaning) -> None:
    table = meaning.table
    facts.stored = np.bincount(ids.ravel(), minlength=256)
    facts.mask_digest = digest(ids)
    present = np.flatnonzero(facts.stored)
    classes = [i for i in present if 0 <= table[i] != IGNORE]
    facts.faults += masks.unknown_ids(ids, facts.stored, table, facts.mask)
    if (table[present] == IGNORE).all():
        facts.add("mask-ignored", facts.mask, f"{facts.mask}: {_ids(present)}")
    elif len(present) == 1 and classes:
        facts.add("mask-one-class", facts.mask, f"{facts.mask}: {_ids(present)}")
    if meaning.spec.num_classes == 2:
        facts.frame, facts.area = masks.foreground(table[ids])


def _ids(present: Any) -> str:
    return f"only id{'s' * (len(present) > 1)} {', '.join(map(str, present))}"


def _compare_sizes(facts: Facts, image: Header, mask: Header) -> None:
    where = facts.mask
    turned = f"orientation {image.orientation} of the image, {mask.orientation} of "
    turned += f"the mask {where}"
    differ = image.orientation != mask.orientation
    if image.size != mask.size:
        sizes = "{} x {}, {} {} x {}".format(*image.size, where, *mask.size)
        text = f"{facts.image} is {sizes} (rows x columns)"
        if differ and image.stored == mask.stored:
            facts.add("exif-size-mismatch", where, f"{text}; {turned}")
        elif image.size == mask.size[::-1]:
            facts.add("size-transposed", where, text)
        else:
            facts.add("size-mismatch", where, text)
    # A quarter turn that gives the mask its own size was seen by whoever drew it.
    elif differ and image.stored == mask.stored:
        facts.add("exif-ambiguous", where, turned)
    elif max(image.orientation, mask.orientation) > 1:
        turn, name = image.orientation, facts.image
        facts.add("exif-rotation", name, f"{name}: orientation {turn}")


def _same(image: np.ndarray, mask: np.ndarray) -> bool:
    mask = mask[:, :, None] if mask.ndim == 2 else mask
    alike = image.shape == mask.shape or image.shape[:2] + (1,) == mask.shape
    return alike and bool((image == mask).all())
