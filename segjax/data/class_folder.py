"""Images in one folder per class, as ImageNet is usually unpacked.

``<root>/<split>/<class>/**/*.jpg``: the classes are the names of the folders of split
``train``, sorted. Where there is neither ``train`` nor ``val`` nor ``test``, the root
holds the classes' folders, and each image goes to train or val by a hash of (seed,
name), so that new files never move old ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segjax.batch import ClassSpec, Example
from segjax.data import files
from segjax.data.folder import STANDARD, Layout, split_of
from segjax.data.pairs import Stored

ORDER = {name: place for place, name in enumerate(STANDARD)}


class ClassFolder:
    """One split of folders of images (layouts: see the module).

    Args:
      root: the folder.
      split: one of :func:`splits`.
      val_fraction, seed: the split of a folder without splits.
      channels: of every image; None takes the first image's. 3 widens grey images.

    Raises:
      ValueError: nothing to read, an unknown or empty split, a class that train has
        not; reading an example, what :func:`segjax.data.files.read_image` does.
    """

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        *,
        val_fraction: float = 0.2,
        seed: int = 0,
        channels: int | None = None,
    ):
        layout = Layout(val_fraction=val_fraction, seed=seed)
        folder, known = _root(root), splits(root, val_fraction=val_fraction)
        if split not in known:
            raise ValueError(f"{folder}: no split {split!r}; it has {', '.join(known)}")
        named = _named_splits(folder)
        first = folder / ("train" if "train" in named else split) if named else folder
        names = tuple(path.name for path in _folders(first))
        if not names:
            raise ValueError(
                f"{first}: has no folders; put the images of each class into a folder "
                "of the class's name"
            )
        self.spec, self.split = ClassSpec(names), split
        place = folder / split if named else folder
        strange = [p.name for p in _folders(place) if p.name not in names]
        if strange:
            raise ValueError(
                f"{place}: no class of {first} is called {' or '.join(strange[:3])}; "
                "rename the folder, or move it away"
            )
        self._place = place
        self._ids: list[str] = []  # not a million Path objects
        self._labels: list[int] = []
        for label, name in enumerate(names):
            found = _images(place, name)
            if not named:
                found = [i for i in found if split_of(i, layout) == split]
            self._ids += found
            self._labels += [label] * len(found)
        if not self._ids:
            raise ValueError(
                f"{place}: split {split!r} is empty: no images (looked for "
                f"{', '.join(files.EXTENSIONS)})"
            )
        if channels is None:
            channels = files.read_image(place / self._ids[0]).shape[2]
        self.channels = channels

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Example:
        """The example of that index; ValueErrors name the file."""
        image = files.read_image(self._place / self._ids[index], self.channels)
        label = np.asarray(self._labels[index], np.int32)
        return {"image": image, "label": label, "id": self._ids[index]}

    def stored(self, index: int) -> Stored:
        """The file and the class of the example of that index."""
        name, label = self._ids[index], self._labels[index]
        path = self._place / name
        return Stored(name, path, str(path), label=label)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, from the file's header."""
        return files.image_size(self._place / self._ids[index])

    def ids(self) -> Sequence[str]:
        """Paths below the split's folder."""
        return self._ids


def splits(
    root: str | Path | None, *, val_fraction: float = 0.2, **_
) -> tuple[str, ...]:
    """The splits of the folder, train, val and test first."""
    folder = _root(root)
    named = _named_splits(folder)
    if not named:
        return ("train", "val") if val_fraction else ("train",)
    return tuple(sorted(named, key=lambda n: (ORDER.get(n, len(ORDER)), n)))


def _root(root: str | Path | None) -> Path:
    if root is None:
        raise ValueError("class_folder: set data.root to the folder of your classes")
    if not Path(root).is_dir():
        raise ValueError(f"class_folder: data.root={str(root)!r} is not a folder")
    return Path(root)


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    found = (p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: p.name)


def _named_splits(folder: Path) -> list[str]:
    """The folder's folders, where they are splits; else nothing."""
    names = [path.name for path in _folders(folder)]
    return names if any(name in STANDARD for name in names) else []


def _images(place: Path, name: str) -> list[str]:
    """The image files of a class, as paths below ``place``, sorted."""
    found = []
    # followlinks: data sets are often put together of links to other disks.
    for parent, folders, names in os.walk(place / name, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = Path(parent).relative_to(place).as_posix()
        found += [
            f"{below}/{file}"
            for file in names
            if os.path.splitext(file)[1].lower() in files.EXTENSIONS
            and not file.startswith(".")
        ]
    return sorted(found)
