"""Any dataset that tensorflow-datasets has prepared, read without TensorFlow.

The files have to be in a random-access format (``--file_format=array_record``); only
generating a stock dataset needs TensorFlow. Images and masks are decoded here and not
by TFDS, which with OpenCV installed would turn palette masks into colours.

``root`` is a prepared directory (it holds ``dataset_info.json``), or the folder of
all of them, as TFDS's ``data_dir``; None is ``$TFDS_DATA_DIR``, else
``~/tensorflow_datasets``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.batch import ClassSpec, Example, LabelSpec
from segjax.data import files
from segjax.data.catalog import KNOWN, Known
from segjax.data.classes import (
    check_black_and_white,
    is_white_unclaimed,
    parse_classes,
    read_classes,
    spread,
)
from segjax.data.pairs import Meaning, Stored

_LABEL_KEYS = ("segmentation_mask", "segmentation_label", "annotation", "mask", "label")
_IMAGE_KEYS = ("image", "image_left")


class _Split:
    """The records of one split of a prepared dataset: what every task reads of them.

    Args:
      split: a split's name or a slice of one in TFDS's notation: "train[:90%]".
      image_key: the feature that is the image.
      encoded: all image features; they stay as files, to be decoded here.
      channels: of every image; None takes the first image's. 3 widens grey images.
    """

    def __init__(
        self,
        dataset: Any,
        split: str,
        image_key: str,
        encoded: Sequence[str],
        channels: int | None,
    ):
        self._name = f"{dataset.info.full_name} {split}"
        self._prefix = re.sub(r"\W+", "_", split).strip("_")
        self._image_key = image_key
        self._records = _records(dataset, split, list(encoded))
        if channels is None:
            channels = self._image(0, self._record(0), None).shape[2]
        self.channels = channels

    def __len__(self) -> int:
        return len(self._records)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, from the image's header."""
        data = self._record(index)[self._image_key]
        return files.image_size(data, name=self._where(index, self._image_key))

    def ids(self) -> tuple[str, ...]:
        """Split and index: TFDS does not store the examples' keys."""
        return tuple(self._id(i) for i in range(len(self)))

    def _id(self, index: int) -> str:
        return f"{self._prefix}_{index:06d}"

    def _where(self, index: int, key: str) -> str:
        return f"{self._name}[{index}] {key}"

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._records[index]
        # array_record raises RuntimeError with what its reader found.
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{self._name}[{index}]: unreadable or truncated "
                f"({' '.join(str(error).split())}); generate the dataset again"
            ) from error

    def _image(self, index: int, record: dict[str, Any], channels: int | None):
        name = self._where(index, self._image_key)
        return files.read_image(record[self._image_key], channels, name=name)


class Tfds(_Split):
    """One split of a prepared tensorflow-datasets dataset.

    Args:
      root: see the module.
      split: a split's name or a slice of one in TFDS's notation: "train[:90%]".
      builder: "name", "name/config" or "name/config:version"; may be left out where
        ``root`` holds just one dataset.
      image_key, label_key: the features' names; None takes those of a known dataset
        (:mod:`segjax.data.catalog`), else the usual ones.
      classes: a ``classes.json`` or its parsed content (:mod:`segjax.data.classes`);
        needed unless the dataset is known.
      mask_values: what palettes and grey hold, see :func:`segjax.data.files.read_mask`.
      channels: of every image; None takes the first image's. 3 widens grey images.

    Raises:
      ValueError: the dataset is not prepared (says how to), in another format, without
        such features or split, or its classes are not known.
    """

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        *,
        builder: str | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        classes: str | Path | Sequence | dict | None = None,
        mask_values: str = "auto",
        channels: int | None = None,
    ):
        dataset = _open(root, builder)
        known = KNOWN.get(dataset.info.name)
        keys = _image_features(dataset)
        self._label_key = _key(dataset, keys, "label_key", label_key, known)
        self._mask_values = mask_values
        key = _key(dataset, keys, "image_key", image_key, known)
        super().__init__(dataset, split, key, keys, channels)
        self._red = False
        self._colors: dict[files.Color, int] = {}
        if classes is not None:
            self.spec, self._colors = _classes(classes)
            self._check_two_classes()
        else:
            self.spec = self._known_spec(known)

    def _check_two_classes(self) -> None:
        """Refuse masks painted black and white, as Folder does."""
        if not is_white_unclaimed(self.spec):
            return
        some, key = spread(range(len(self))), self._label_key
        names = [self._where(index, key) for index in some]
        masks = [
            files.read_mask(
                self._record(index)[key], self._colors, self._mask_values, name=name
            )
            for index, name in zip(some, names, strict=True)
        ]
        check_black_and_white(names, masks)

    def _known_spec(self, known: Known | None) -> LabelSpec:
        if known is None:
            raise ValueError(
                f"tfds: the classes of {self._name} are not known; set classes to a "
                "classes.json or to a list of names"
            )
        if known.red is None:
            return known.spec
        data, name = self._record(0)[self._label_key], self._where(0, self._label_key)
        mask = files.read_image(data, name=name)
        self._red = mask.shape[2] >= 3
        return known.red if self._red else known.spec

    def __getitem__(self, index: int) -> Example:
        """The example of that index; ValueErrors name dataset, split and index."""
        record = self._record(index)
        image = self._image(index, record, self.channels)
        name = self._where(index, self._label_key)
        data = record[self._label_key]
        if self._red:
            mask = files.read_image(data, name=name)[:, :, 0].copy()
        else:
            mask = files.read_mask(data, self._colors, self._mask_values, name=name)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"sizes differ: {self._where(index, self._image_key)} is "
                f"{image.shape[0]} x {image.shape[1]} (rows x columns), {name} is "
                f"{mask.shape[0]} x {mask.shape[1]}; generate the dataset again"
            )
        label = self.spec.apply(mask, name)
        return {"image": image, "label": label, "id": self._id(index)}

    @property
    def meaning(self) -> Meaning:
        """How the masks are read."""
        return Meaning(self.spec, self._colors, self._mask_values, self._red)

    def stored(self, index: int) -> Stored:
        """The encoded image and mask of the example of that index."""
        record = self._record(index)
        keys = (self._image_key, self._label_key)
        image, mask = (record[key] for key in keys)
        names = [self._where(index, key) for key in keys]
        return Stored(self._id(index), image, names[0], mask, names[1])


class TfdsClasses(_Split):
    """One split of a prepared dataset whose images have one class each.

    imagenet2012, imagenette and cifar10, among many: an image feature beside a
    ``ClassLabel``, whose names are the classes.

    Args:
      root, split, builder, channels: as of :class:`Tfds`.
      image_key, label_key: the features' names; None takes the usual ones.

    Raises:
      ValueError: the dataset is not prepared (says how to), in another format, or
        without such features or split.
    """

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        *,
        builder: str | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        channels: int | None = None,
    ):
        dataset = _open(root, builder)
        self._label_key, names = _class_label(dataset, label_key or "label")
        self.spec = ClassSpec(names)
        keys = _image_features(dataset)
        key = _key(dataset, keys, "image_key", image_key, None)
        super().__init__(dataset, split, key, keys, channels)

    def __getitem__(self, index: int) -> Example:
        """The example of that index; ValueErrors name dataset, split and index."""
        record = self._record(index)
        label = int(record[self._label_key])
        if not 0 <= label < self.spec.num_classes:
            raise ValueError(
                f"{self._where(index, self._label_key)} is {label}, none of the "
                f"{self.spec.num_classes} classes; choose a split that has labels"
            )
        image = self._image(index, record, self.channels)
        return {
            "image": image,
            "label": np.asarray(label, np.int32),
            "id": self._id(index),
        }

    def stored(self, index: int) -> Stored:
        """The encoded image and the class of the example of that index."""
        record = self._record(index)
        name = self._where(index, self._image_key)
        label = int(record[self._label_key])
        return Stored(self._id(index), record[self._image_key], name, label=label)


def splits(
    root: str | Path | None, *, builder: str | None = None, **_: Any
) -> tuple[str, ...]:
    """The names of the dataset's splits; slices of them can be opened too."""
    return tuple(_open(root, builder).info.splits)


def _locate(root: str | Path | None, builder: str | None) -> Path:
    """The prepared directory of the dataset, its newest version."""
    if root is None:
        root = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    base = Path(root).expanduser()
    if (base / "dataset_info.json").is_file():
        return base
    name, _, version = (builder or "").partition(":")
    # name/version or name/config/version; a deeper search would walk the downloads.
    depth = 2 - name.count("/") if name else 3
    patterns = ("/".join("*" * d) for d in range(1 if name else 2, depth + 1))
    found = [p for pattern in patterns for p in (base / name).glob(pattern)]
    found = [p for p in found if (p / "dataset_info.json").is_file()]
    found = [p for p in found if version in ("", p.name)]
    # Versions of one dataset and config lie side by side; the newest one counts.
    newest = {path.parent: path for path in sorted(found, key=_version)}
    if not newest:
        raise ValueError(_not_prepared(base, builder))
    if len(newest) > 1:
        names = sorted(p.relative_to(base).as_posix() for p in newest)
        raise ValueError(f"tfds: {base} holds {', '.join(names)}; set builder to one")
    return next(iter(newest.values()))


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", path.name))


def _not_prepared(base: Path, builder: str | None) -> str:
    if not builder:
        return (
            f"tfds: there is no prepared dataset in {base}; set builder and data.root "
            f"(known builders: {', '.join(KNOWN)})"
        )
    known = KNOWN.get(re.split("[/:]", builder)[0])
    install, before = (known.install, known.before) if known else ("tensorflow", "")
    return (
        f"tfds: {builder!r} is not prepared in {base}; {before}run `pip install "
        f"{install}` and `tfds build {builder} --file_format=array_record "
        f"--data_dir={base}` (reading needs no TensorFlow)"
    )


def _open(root: str | Path | None, builder: str | None) -> Any:
    import tensorflow_datasets

    place = _locate(root, builder)
    try:
        json.loads((place / "dataset_info.json").read_text())
        _check_classes(json.loads((place / "features.json").read_text()))
        dataset = tensorflow_datasets.builder_from_directory(str(place))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"tfds: {place} is not a prepared dataset: {reason}") from None
    if builder and re.split("[/:]", builder)[0] != dataset.info.name:
        raise ValueError(
            f"tfds: {place} holds {dataset.info.full_name}, not {builder!r}; set "
            f"builder to {dataset.info.name!r} or data.root to another directory"
        )
    return dataset


def _check_classes(described: Any) -> None:
    """Refuse features of foreign classes: TFDS imports whatever module is named."""
    if isinstance(described, list):
        described = dict(enumerate(described))
    if isinstance(described, dict):
        for key, value in described.items():
            named = key in ("type", "pythonClassName", "python_class_name")
            if named and "." in str(value):
                if not str(value).startswith("tensorflow_datasets."):
                    raise ValueError(f"features.json names the class {value!r}")
            _check_classes(value)


def _image_features(dataset: Any) -> list[str]:
    import tensorflow_datasets

    image = tensorflow_datasets.features.Image
    return [k for k, v in dataset.info.features.items() if isinstance(v, image)]


def _key(
    dataset: Any, keys: list[str], option: str, value: str | None, known: Known | None
) -> str:
    """The name of the feature that ``option`` means, one of the image features."""
    if value is None and known is not None:
        value = getattr(known, option)
    usual = _IMAGE_KEYS if option == "image_key" else _LABEL_KEYS
    choices = [value] if value is not None else usual
    found = [key for key in choices if key in keys]
    if not found:
        raise ValueError(
            f"tfds: {dataset.info.full_name} has no image feature "
            f"{value or ' or '.join(usual)}; its image features are "
            f"{', '.join(keys) or 'none'}: set {option} to one"
        )
    if str(dataset.info.features[found[0]].np_dtype) == "float32":
        raise ValueError(
            f"tfds: {found[0]!r} of {dataset.info.full_name} holds float32 images, "
            "which only TensorFlow decodes; generate it as uint8 or uint16"
        )
    return found[0]


def _class_label(dataset: Any, key: str) -> tuple[str, tuple[str, ...]]:
    """The name of the feature that is the class, and the classes' names."""
    import tensorflow_datasets

    kind, features = tensorflow_datasets.features.ClassLabel, dataset.info.features
    known = [k for k, v in features.items() if isinstance(v, kind)]
    if key not in known:
        raise ValueError(
            f"tfds: {dataset.info.full_name} has no class label {key!r}; its class "
            f"labels are {', '.join(sorted(known)) or 'none'}: set label_key to one"
        )
    return key, tuple(features[key].names)


def _records(dataset: Any, split: str, keys: list[str]) -> Any:
    import tensorflow_datasets

    decoders = {key: tensorflow_datasets.decode.SkipDecoding() for key in keys}
    name, known = dataset.info.full_name, list(dataset.info.splits)
    try:
        count = dataset.info.splits[split].num_examples
    except (KeyError, ValueError):
        raise ValueError(
            f"tfds: {name} has no split {split!r}; it has {', '.join(known)}, and "
            f"slices of them such as '{known[0]}[:90%]'"
        ) from None
    if not count:
        raise ValueError(f"tfds: split {split!r} of {name} is empty; choose another")
    try:
        return dataset.as_data_source(split, decoders=decoders)
    except NotImplementedError:
        raise ValueError(
            f"tfds: {name} in {dataset.data_dir} is stored as "
            f"{dataset.info.file_format.value}; generate it again with `tfds build "
            f"{dataset.info.name} --file_format=array_record` in another --data_dir"
        ) from None


def _classes(classes: Any) -> tuple[LabelSpec, dict[files.Color, int]]:
    if isinstance(classes, str | Path):
        return read_classes(classes)
    value = classes if isinstance(classes, dict) else list(classes)
    try:
        return parse_classes(value)
    except ValueError as error:
        raise ValueError(f"tfds: classes: {error}") from None
