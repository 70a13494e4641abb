"""A user's own images and masks, paired by file name, with classes in classes.json.

``<root>/classes.json`` says what the masks hold (:mod:`segjax.data.classes`); of a
published dataset ``classes_file`` "known:cityscapes", "known:ade20k" or "known:voc"
does (:data:`segjax.data.catalog.CLASSES`). Images
and masks pair by their paths below their folders without the ending, so ``a/b.jpg``
goes with ``a/b.png``. The splits are, in this order of precedence,

* list files ``<split>.txt`` in the root or in its folder ``list_dir``, each line an
  image's name (with or without folder and ending) or ``image mask`` as two paths below
  the root;
* ``<root>/<split>/images`` and ``<root>/<split>/masks``;
* ``<root>/images/<split>`` and ``<root>/masks/<split>``, with ``train``, ``val`` or
  ``test`` (or, as in ADE20K, ``training`` or ``validation``) among them;
* ``<root>/images`` and ``<root>/masks`` without splits: each example goes to train, val
  or test by a hash of (seed, name), so new files never move old ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segjax.data.catalog import find_classes
from segjax.data.classes import check_black_and_white, is_white_unclaimed, spread
from segjax.data.files import EXTENSIONS, read_mask
from segjax.data.pairs import Pair, Pairs, Tell, refuse

STANDARD = ("train", "val", "test")
_KNOB = "config.data.folder"
# What folders of splits may be called besides.
OTHER_SPLITS = ("training", "validation", "testing")
_COMMON_SUFFIXES = ("_mask", "_label", "_labels", "_gt", "_seg", "_annotation", "_L")


@dataclass(frozen=True)
class Layout:
    """Where images and masks lie and how a flat folder is split."""

    image_dir: str = "images"
    mask_dir: str = "masks"
    image_suffix: str = ""
    mask_suffix: str = ""
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    seed: int = 0
    list_dir: str = ""

    def __post_init__(self):
        if min(self.val_fraction, self.test_fraction) < 0 or not (
            self.val_fraction + self.test_fraction < 1
        ):
            raise ValueError(
                f"val_fraction={self.val_fraction} and test_fraction="
                f"{self.test_fraction} must not be negative and leave some for train"
            )
        if self.image_dir == self.mask_dir and self.image_suffix == self.mask_suffix:
            raise ValueError(
                f"images and masks are both in {self.image_dir!r}: set "
                f"{_KNOB}.mask_suffix to what the masks' names end in, such as '_mask'"
            )


class Folder(Pairs):
    """One split of a folder of images and masks (layouts: see the module).

    Args:
      root: the folder with ``classes.json``.
      split: one of :func:`splits`.
      classes_file: the classes, relative to the root, or "known:NAME".
      image_dir, mask_dir: the folders' names.
      image_suffix, mask_suffix: what names end in before the ending, such as "_mask"
        for ``a.jpg`` and ``a_mask.png``; files without it are passed over.
      mask_values: what palettes and grey hold, see :func:`segjax.data.files.read_mask`.
      val_fraction, test_fraction, seed: the split of a folder without splits.
      list_dir: folder of the list files, relative to the root.
      channels: of every image; None takes the first image's. 3 widens grey images.

    Raises:
      ValueError: nothing to read, an unknown or empty split, an image without mask or
        a mask without image (named); reading an example raises what ``Pairs`` does.
    """

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        *,
        classes_file: str = "classes.json",
        image_dir: str = "images",
        mask_dir: str = "masks",
        image_suffix: str = "",
        mask_suffix: str = "",
        mask_values: str = "auto",
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        seed: int = 0,
        list_dir: str = "",
        channels: int | None = None,
    ):
        layout = Layout(
            image_dir,
            mask_dir,
            image_suffix,
            mask_suffix,
            val_fraction,
            test_fraction,
            seed,
            list_dir,
        )
        folder = find_root(root)
        spec, colors = find_classes(folder, classes_file)
        pairs = find_pairs(folder, split, layout)
        super().__init__(
            pairs, spec, channels=channels, colors=colors, mask_values=mask_values
        )
        if is_white_unclaimed(spec):
            masks = [pair.mask for pair in spread(pairs)]
            check_black_and_white(
                masks, [read_mask(mask, colors, mask_values) for mask in masks]
            )


def splits(root: str | Path | None, **options) -> tuple[str, ...]:
    """The splits of the folder, train, val and test first; options as in ``Folder``."""
    fields = Layout.__dataclass_fields__
    layout = Layout(**{k: v for k, v in options.items() if k in fields})
    return _names(find_splits(find_root(root), layout))


def find_pairs(
    root: Path, split: str, layout: Layout, tell: Tell = refuse
) -> list[Pair]:
    """The pairs of one split, in the order of the list file or of their names.

    ``tell`` is told of files that cannot be paired; where it returns they are left out.
    """
    found = find_splits(root, layout)
    if split not in found:
        raise ValueError(
            f"{root}: no split {split!r}; it has {', '.join(_names(found))}"
        )
    place, told = found[split], []

    def noted(code: str, where: Sequence[Path | str], text: str) -> None:
        told.append(code)
        tell(code, where, text)

    if place is not None and place.suffix == ".txt":
        pairs, where = _listed(root, place, layout, noted), str(place)
    elif place is None:
        images, masks = root / layout.image_dir, root / layout.mask_dir
        pairs, where = _paired(images, masks, layout, noted), str(images)
        everything = len(pairs)
        pairs = [pair for pair in pairs if split_of(pair.id, layout) == split]
        if everything and not pairs:
            tell(
                "split-empty",
                [images],
                f"{root}: split {split!r} is empty: by their names none of the "
                f"{everything} images falls into it; raise {_KNOB}.{split}_fraction or "
                f"change {_KNOB}.seed",
            )
            return []
    else:
        images = place
        masks = _mask_folder(root, place, layout)
        pairs, where = _paired(images, masks, layout, noted), str(images)
    if not pairs and not told:
        tell(
            "split-empty",
            [where],
            f"{root}: split {split!r} is empty: no images in {where} (looked for "
            f"{', '.join(EXTENSIONS)})",
        )
    return pairs


def split_of(name: str, layout: Layout) -> str:
    """The split of an example of a flat folder, by its name and the seed alone."""
    digest = hashlib.blake2b(f"{layout.seed}/{name}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < layout.test_fraction:
        return "test"
    return "val" if place < layout.test_fraction + layout.val_fraction else "train"


def find_root(root: str | Path | None) -> Path:
    """The folder of that name, or an error that says so."""
    if root is None:
        raise ValueError(
            "folder: set data.root to the folder with your images: "
            "--config.data.root=DIR"
        )
    if not Path(root).is_dir():
        seen = "" if Path(root).is_absolute() else f", seen from {Path.cwd()}"
        raise ValueError(
            f"folder: data.root={str(root)!r} is not a folder{seen}; write "
            "--config.data.root=DIR"
        )
    return Path(root)


def find_splits(root: Path, layout: Layout) -> dict[str, Path | None]:
    """Split -> its list file, its image folder, or None for a hashed share."""
    place = root / layout.list_dir
    lists = sorted(path for path in place.glob("*.txt") if _is_list(root, path, layout))
    if layout.list_dir and not lists:
        raise ValueError(
            f"{place}: no list of images (SPLIT.txt) in it; correct {_KNOB}.list_dir, "
            "or leave it out"
        )
    if lists:
        return {path.stem: path for path in lists}
    above = [p for p in root.iterdir() if (p / layout.image_dir).is_dir()]
    if above:
        return {path.name: path / layout.image_dir for path in sorted(above)}
    images = root / layout.image_dir
    below = (
        {p.name: p for p in images.iterdir() if p.is_dir()} if images.is_dir() else {}
    )
    if any(name in below for name in (*STANDARD, *OTHER_SPLITS)):
        return dict(sorted(below.items()))
    if not images.is_dir():
        raise ValueError(
            f"{root}: has no images; put them in {layout.image_dir}/ and the masks in "
            f"{layout.mask_dir}/, or both under train/ and val/, or set "
            f"{_KNOB}.image_dir{_folders_of(root)}"
        )
    shares = {"train": 1.0, "val": layout.val_fraction, "test": layout.test_fraction}
    return {name: None for name, share in shares.items() if share}


def _folders_of(root: Path) -> str:
    """What is there instead: " (there are photos/, labels/)", or nothing."""
    names = [p.name for p in sorted(root.iterdir()) if p.is_dir()][:8]
    return f" (there are {', '.join(f'{name}/' for name in names)})" if names else ""


def _names(found: Iterable[str]) -> tuple[str, ...]:
    order = {name: place for place, name in enumerate((*STANDARD, *OTHER_SPLITS))}
    return tuple(sorted(found, key=lambda n: (order.get(n, len(order)), n)))


def _mask_folder(root: Path, images: Path, layout: Layout) -> Path:
    if images.name == layout.image_dir and images.parent.parent == root:
        return images.parent / layout.mask_dir
    return root / layout.mask_dir / images.name


def _index(
    folder: Path, suffix: str, without: str = "", tell: Tell = refuse
) -> dict[str, Path]:
    """Name (path below the folder, no ending, no suffix) -> file, sorted by name."""
    found: dict[str, Path] = {}
    # followlinks: data sets are often put together of links to other disks.
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            stem = path.stem
            if path.suffix.lower() not in EXTENSIONS or name.startswith("."):
                continue
            if not stem.endswith(suffix) or (without and stem.endswith(without)):
                continue
            stem = stem[: len(stem) - len(suffix)]
            key = path.with_name(stem).relative_to(folder).as_posix() if stem else ""
            if key in found:
                tell(
                    "name-duplicate",
                    [found[key], path],
                    f"{folder}: {found[key].name} and {name} are both {key!r}; remove "
                    "one of them",
                )
                continue
            found[key] = path
    return dict(sorted(found.items()))


def _indices(images: Path, masks: Path, layout: Layout, tell: Tell):
    # In one common folder a file with the masks' suffix is not an image.
    without = layout.mask_suffix if images == masks else ""
    return (
        _index(images, layout.image_suffix, without, tell),
        _index(masks, layout.mask_suffix, tell=tell),
    )


def _paired(images: Path, masks: Path, layout: Layout, tell: Tell) -> list[Pair]:
    """All images of a folder with their masks; both have to be complete."""
    image, mask = _indices(images, masks, layout, tell)
    if image and not masks.is_dir():
        advice = f"set {_KNOB}.mask_dir{_folders_of(masks.parent)}"
        tell("mask-missing", [masks], f"{masks}: there is no such folder; {advice}")
        return []
    problems = []
    bare = [name for name in image if name not in mask]
    if bare:
        problems.append(
            f"{_some([image[n].name for n in bare], 'image')} without mask in {masks}"
        )
    alone = [name for name in mask if name not in image]
    if alone:
        problems.append(
            f"{_some([mask[n].name for n in alone], 'mask')} without image in {images}"
        )
    if problems:
        suffixes = [s for s in _COMMON_SUFFIXES if any(n + s in mask for n in bare)]
        advice = "names must agree up to the ending: add or remove files"
        if suffixes:
            suffix = layout.mask_suffix + suffixes[0]
            advice = f"set {_KNOB}.mask_suffix={suffix!r}"
        text = f"{'; '.join(problems)}; {advice}"
        if bare:
            tell("mask-missing", [image[name] for name in bare], text)
        if alone:
            tell("image-missing", [mask[name] for name in alone], text)
    return [Pair(name, image[name], mask[name]) for name in image if name in mask]


def _some(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {what}{'s' * (len(names) > 1)} ({', '.join(names[:3])}{more})"


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    return [(n, line) for n, line in lines if line and not line.startswith("#")]


def _is_list(root: Path, path: Path, layout: Layout) -> bool:
    """Not a README or a list of class names: the first line names an image."""
    if path.stem in STANDARD:
        return True
    lines = _lines(path)[:1]
    if not lines:
        return False
    folder = root / layout.image_dir
    # Names that occur twice are refused where the pairs are looked for.
    images = _by_name(_index(folder, layout.image_suffix, tell=lambda *_: None))
    line = lines[0][1]
    # By a name the whole line: ADE20K has a list of images and their scenes beside.
    named = (root / line).is_file() or _key(line, layout) in images
    return named or (root / line.split()[0].lstrip("/")).is_file()


def _key(word: str, layout: Layout) -> str:
    word = Path(word.strip("/")).as_posix().removeprefix(f"{layout.image_dir}/")
    base, ending = os.path.splitext(word)
    word = base if ending.lower() in EXTENSIONS else word
    return word.removesuffix(layout.image_suffix)


def _by_name(index: dict[str, Path]) -> dict[str, Path]:
    """The index, reachable by the bare name too where that is unique."""
    bare: dict[str, list[Path]] = {}
    for key, path in index.items():
        bare.setdefault(key.rsplit("/", 1)[-1], []).append(path)
    return {name: paths[0] for name, paths in bare.items() if len(paths) == 1} | index


def _listed(root: Path, path: Path, layout: Layout, tell: Tell) -> list[Pair]:
    """The pairs that a list file names, in its order."""
    folders = root / layout.image_dir, root / layout.mask_dir
    image, mask = _indices(*folders, layout, tell)
    image, mask = _by_name(image), _by_name(mask)
    pairs: dict[str, Pair] = {}
    lacking: dict[str, list[str]] = {"image-missing": [], "mask-missing": []}
    problems = []
    for number, line in _lines(path):
        where, name = f"{path}:{number}", _key(line, layout)
        if name in image:
            pair = (image[name], mask.get(name))
        else:
            words = [root / word.lstrip("/") for word in line.split()]
            if len(words) > 2:
                text = f"{where}: a line is a name or 'image mask', not {line!r}"
                tell("list-malformed", [where], text)
                continue
            pair = (*(w if w.is_file() else None for w in words), None)[:2]
            name = _key(line.split()[0], layout)
        if pair[0] is None or pair[1] is None:
            code = "image-missing" if pair[0] is None else "mask-missing"
            lack = "no such image" if pair[0] is None else "no mask"
            lacking[code].append(where)
            problems.append(f"line {number} {line!r}: {lack}")
        elif name in pairs:
            tell("listed-twice", [where], f"{where}: {name!r} is listed twice")
        else:
            pairs[name] = Pair(name, pair[0], pair[1])
    for code, lines in lacking.items():
        if lines:
            tell(
                code,
                lines,
                f"{path}: {_some(problems, 'line')} without its files; complete "
                f"{layout.image_dir}/ and {layout.mask_dir}/ or correct the list",
            )
    return list(pairs.values())
