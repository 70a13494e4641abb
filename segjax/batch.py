"""The contract between data, steps and pictures: keys, dtypes, shapes, label ids.

An **example** (what a source yields) is a dict of

* ``image``: uint8 | uint16 | float32 ``[h, w, C]``, rows first. Integers are read as
  fractions of their type's largest value; float32 is taken as it is;
* ``label``: uint8 ``[h, w]``, class ids ``0 .. K-1`` or :data:`IGNORE`;
* ``id``: str, unique within its split.

A **training batch** (one process's share) is a dict of NumPy arrays

* ``image``: ``[B, H, W, C]`` in the example's dtype, zero outside the valid area;
* ``label``: uint8 ``[B, H, W]``, :data:`IGNORE` outside the valid area;
* ``size``: int32 ``[B, 2]``, height and width of the valid area, which begins at
  the top left corner.

An **evaluation batch** has, besides, the labels at their own resolution: ``label`` is
uint8 ``[B, Hl, Wl]`` and ``label_size`` int32 ``[B, 2]``. Rows that only fill up the
last batch have labels that are all :data:`IGNORE`.

In **classification** a label is one class: int32 ``[]`` in an example, int32 ``[B]`` in
a batch, :data:`NO_CLASS` in rows that only fill up. (255 is a class like any other.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

IGNORE = 255
"""The label id of pixels that count nowhere: not in a loss, not in a metric."""

MAX_CLASSES = 255

NO_CLASS = -1
"""The class of images that count nowhere, where a label is one class per image."""

Batch = dict[str, np.ndarray]
Example = dict[str, Any]


@dataclass(frozen=True)
class LabelSpec:
    """What the ids of a dataset's masks mean.

    ``names[k]`` and ``palette[k]`` (RGB, 0 to 255) describe class ``k``. ``remap``
    takes ids as they are stored on disk to class ids or to :data:`IGNORE`; an id that
    it does not list must be a class id already. ``ignore`` lists the stored ids that
    mean "no label"; :data:`IGNORE` itself always does.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore: tuple[int, ...] = ()
    remap: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ValueError(
                f"a LabelSpec has {len(self.names)} classes; 1 to {MAX_CLASSES} fit "
                f"in uint8 beside {IGNORE} for 'ignore'"
            )
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ValueError(f"class names occur twice: {', '.join(twice)}")
        if len(self.palette) != len(self.names):
            raise ValueError(
                f"{len(self.names)} class names but {len(self.palette)} colours"
            )
        wrong = {to for _, to in self.remap if to != IGNORE and to >= len(self.names)}
        if wrong:
            raise ValueError(
                f"remap leads to ids {sorted(wrong)}, but the classes are "
                f"0 to {len(self.names) - 1} (ignore: {IGNORE})"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes, K: the width of the model's output."""
        return len(self.names)

    def lookup(self) -> np.ndarray:
        """int16[256]: stored id -> class id, IGNORE, or -1 where the id is unknown."""
        table = np.full(256, -1, np.int16)
        table[: self.num_classes] = np.arange(self.num_classes)
        for stored in (*self.ignore, IGNORE):
            table[stored] = IGNORE
        for stored, to in self.remap:
            table[stored] = to
        return table

    def apply(self, mask: np.ndarray, name: str) -> np.ndarray:
        """Turn stored ids uint8[h, w] into class ids; ``name`` goes into the error.

        Raises:
          ValueError: an id is neither a class nor ignored (file, id, pixel count).
        """
        table, wrong = _translation(self)
        # Four times as fast as indexing: a mask is as many lookups as it has pixels.
        ids = bytearray(np.ascontiguousarray(mask, np.uint8)).translate(table)
        label = np.frombuffer(ids, np.uint8).reshape(mask.shape)
        if (label == wrong).any() and (unknown := self.lookup()[mask] < 0).any():
            ids, counts = np.unique(mask[unknown], return_counts=True)
            found = ", ".join(
                f"id {i} ({n} pixel{'s' * int(n != 1)})"
                for i, n in zip(ids, counts, strict=True)
            )
            raise ValueError(
                f"{name}: {found} not among the {self.num_classes} classes; add it to "
                "the classes, to 'ignore' or to 'remap'"
            )
        return label

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``labels.json``."""
        return {
            "names": list(self.names),
            "palette": [list(c) for c in self.palette],
            "ignore": list(self.ignore),
            "remap": [list(pair) for pair in self.remap],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "LabelSpec":
        """The inverse of :meth:`to_dict`."""
        return cls(
            names=tuple(value["names"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in value["palette"]),
            ignore=tuple(value.get("ignore", ())),
            remap=tuple((int(a), int(b)) for a, b in value.get("remap", ())),
        )


@lru_cache(maxsize=64)
def _translation(spec: LabelSpec) -> tuple[bytes, int]:
    """For ``bytes.translate``: stored id -> class id, or the id given to unknown ones.

    That one is no class's, but where 255 classes leave none: there it is class 0's.
    """
    table, wrong = spec.lookup(), spec.num_classes % MAX_CLASSES
    return np.where(table < 0, wrong, table).astype(np.uint8).tobytes(), wrong


@dataclass(frozen=True)
class ClassSpec:
    """The classes of whole images: ``names[k]`` is what class ``k`` is called."""

    names: tuple[str, ...]

    def __post_init__(self):
        if not self.names:
            raise ValueError("a ClassSpec has no classes; name one or more")
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ValueError(f"class names occur twice: {', '.join(twice)}")

    @property
    def num_classes(self) -> int:
        """The number of classes, K: the width of the model's output."""
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``labels.json``."""
        return {"names": list(self.names)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ClassSpec":
        """The inverse of :meth:`to_dict`."""
        return cls(names=tuple(value["names"]))


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Distinct colours for classes that come without any: Pascal VOC's bit pattern."""
    colours = []
    for k in range(1, num_classes + 1):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((k >> (3 * bit + channel)) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colours)


class Source(Protocol):
    """A split of a dataset with random access; safe to read from several threads."""

    spec: LabelSpec | ClassSpec
    channels: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the example, without decoding it where possible."""
        ...

    def ids(self) -> Sequence[str]:
        """The examples' ids, in order."""
        ...
