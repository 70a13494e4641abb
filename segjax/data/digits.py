"""Handwritten digits, 8 x 8 pixels, embedded: classification without a download.

``digits.csv.gz`` is that of scikit-learn 1.9.1 (``sklearn/datasets/data``), byte for
byte: the 1797 images of the test set of "Optical Recognition of Handwritten Digits" (E.
Alpaydin and C. Kaynak, 1998, https://doi.org/10.24432/C50P49), which the UCI repository
licenses under CC BY 4.0. A row is 64 values from 0 to 16, then the digit.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from segjax.batch import ClassSpec, Example

SPLITS = ("train", "val")
SPEC = ClassSpec(tuple("0123456789"))
_TRAINED = 1437  # four fifths; the others, in the file's order, are val


@lru_cache(maxsize=1)
def read() -> tuple[np.ndarray, np.ndarray]:
    """All images uint8[1797, 8, 8], 0 to 255, and their digits int32[1797]."""
    rows = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",")
    images = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8), rows[:, 64].astype(np.int32)


class Digits:
    """One split; ``image`` is uint8[8, 8, channels], which the pipeline enlarges.

    Args:
      split: "train" (the file's first 1437 images) or "val" (the other 360).
      channels: 1, or 3 (the default): three times the same, so that the encoder can go
        on to colour images.

    Raises:
      ValueError: another split, or another number of channels.
    """

    spec = SPEC

    def __init__(self, split: str, *, channels: int | None = None):
        if split not in SPLITS:
            raise ValueError(
                f"'digits' has no split {split!r}; write {' or '.join(SPLITS)}"
            )
        if channels not in (None, 1, 3):
            raise ValueError(f"data.channels={channels}: 'digits' has 1 or 3")
        part = slice(_TRAINED) if split == "train" else slice(_TRAINED, None)
        self.split, self.channels = split, channels or 3
        self._images, self._labels = (array[part] for array in read())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        """The example of that index."""
        image = self._images[index][:, :, None].repeat(self.channels, 2)
        label = np.asarray(self._labels[index])
        return {"image": image, "label": label, "id": self.ids()[index]}

    def size(self, index: int) -> tuple[int, int]:
        """8 x 8."""
        return 8, 8

    def ids(self) -> Sequence[str]:
        """``train_0000``, ``train_0001``, ..."""
        return _ids(self.split, len(self))


@lru_cache(maxsize=4)
def _ids(split: str, examples: int) -> tuple[str, ...]:
    return tuple(f"{split}_{index:04d}" for index in range(examples))
