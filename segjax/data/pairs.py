"""A source of image files and mask files that lie side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segjax.batch import ClassSpec, Example, LabelSpec
from segjax.data import files

_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pair:
    """One example on disk: its id, unique in the split, and its two files."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Meaning:
    """How the masks of a dataset are read; of a ClassSpec there are none.

    ``colors`` and ``values`` are those of :func:`segjax.data.files.read_mask`; ``red``:
    the ids are the first channel of an RGB image.
    """

    spec: LabelSpec | ClassSpec
    colors: Mapping[files.Color, int] = field(default_factory=dict)
    values: str = "auto"
    red: bool = False

    @property
    def table(self) -> np.ndarray:
        """int[256]: stored id -> class, IGNORE, or -1; of a ClassSpec int[K]."""
        if isinstance(self.spec, ClassSpec):
            return np.arange(self.spec.num_classes)
        return self.spec.lookup()


@dataclass(frozen=True)
class Stored:
    """An example as it is stored: files, and what errors call them.

    In classification there is a ``label``, the class, in the place of a mask.
    """

    id: str
    image: files.File
    image_name: str
    mask: files.File | None = None
    mask_name: str = ""
    label: int | None = None

    @classmethod
    def of(cls, pair: Pair) -> Stored:
        """The same of a pair of files on disk."""
        return cls(pair.id, pair.image, str(pair.image), pair.mask, str(pair.mask))


Tell = Callable[[str, Sequence[Path | str], str], None]
"""Takes what is wrong with files that are to be paired: a name for it (those of
:mod:`segjax.data.inspection.codes`), the files, and a line of text."""


def refuse(code: str, where: Sequence[Path | str], text: str) -> None:
    """The usual ``Tell``: raise a ValueError of the text."""
    raise ValueError(text)


class Pairs:
    """A :class:`segjax.batch.Source` of file pairs; files are read when asked for.

    Args:
      pairs: the examples, in order.
      spec: what the stored ids mean.
      channels: of every image; None takes the first image's.
      colors: RGB colour -> stored id, for masks that hold colours.
      mask_values: see :func:`segjax.data.files.read_mask`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: LabelSpec,
        *,
        channels: int | None = None,
        colors: Mapping[files.Color, int] | None = None,
        mask_values: str = "auto",
    ):
        self.spec = spec
        self._pairs = tuple(pairs)
        self.meaning = Meaning(spec, colors or {}, mask_values)
        if channels is None:
            channels = files.read_image(self._pairs[0].image).shape[2]
        self.channels = channels

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        """The example of that index; ValueErrors name the file (see the module)."""
        pair = self._pairs[index]
        image = files.read_image(pair.image, self.channels)
        mask = files.read_mask(pair.mask, self.meaning.colors, self.meaning.values)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"sizes differ: {pair.image} is {image.shape[0]} x {image.shape[1]} "
                f"(rows x columns), {pair.mask} is {mask.shape[0]} x {mask.shape[1]}; "
                "export the mask again at the image's size and EXIF orientation"
            )
        try:
            label = self.spec.apply(mask, str(pair.mask))
        except ValueError as error:
            if pair.mask.suffix.lower() not in _LOSSY:
                raise
            raise ValueError(
                f"{error} ({pair.mask.suffix} is lossy and changes ids: masks belong "
                "in PNG)"
            ) from None
        return {"image": image, "label": label, "id": pair.id}

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, from the image file's header."""
        return files.image_size(self._pairs[index].image)

    def stored(self, index: int) -> Stored:
        """The files of the example of that index."""
        return Stored.of(self._pairs[index])

    def ids(self) -> tuple[str, ...]:
        """The examples' ids, in order."""
        return tuple(pair.id for pair in self._pairs)
