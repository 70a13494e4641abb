"""The examples of every split, found without stopping at what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segjax.batch import Example, Source
from segjax.data import camvid, catalog, folder, open_source, splits
from segjax.data.files import EXTENSIONS, UNREAD
from segjax.data.inspection.codes import Fault
from segjax.data.pairs import Meaning, Pair, Stored, Tell

Load = Callable[[], Stored | Example]

# Pictures that are not read in a dataset; other files beside images are not missed.
_OTHER = (
    *(".gif", ".jp2", ".j2k", ".avif", ".jfif", ".ppm", ".pgm", ".pbm", ".tga"),
    *UNREAD,
)


@dataclass
class Listing:
    """``splits``: how to load each example; ``meaning`` is None where none is known."""

    meaning: Meaning | None = None
    splits: dict[str, list[Load]] = field(default_factory=dict)
    told: list[tuple[str, Fault]] = field(default_factory=list)

    def tell(self, split: str) -> Tell:
        """Notes what is wrong with a split."""

        def tell(code: str, where: Sequence[Path | str], text: str) -> None:
            self.told += [(split, Fault(code, str(place), text)) for place in where]

        return tell


def list_dataset(
    name: str,
    root: str | None,
    wanted: Sequence[str],
    options: Mapping[str, Any],
) -> Listing:
    """Find the examples of all splits of a dataset.

    Args:
      name, root, options: as for :func:`segjax.data.open_source`.
      wanted: splits to list first, which have to be there.
    """
    listing = Listing()
    try:
        if name == "folder":
            _folder(listing, root, options)
        elif name == "camvid":
            _camvid(listing, root)
        else:
            _opened(listing, name, root, wanted, options)
    except ValueError as error:
        listing.told.append(("", Fault("dataset-unreadable", str(root), str(error))))
        return listing
    known = ", ".join(listing.splits) or "no splits"
    for split in dict.fromkeys(wanted):
        if split not in listing.splits:
            text = f"no split {split!r}; there are {known}"
            listing.told.append((split, Fault("split-missing", split, text)))
    order = {split: place for place, split in enumerate(wanted)}
    listing.splits = dict(
        sorted(listing.splits.items(), key=lambda item: order.get(item[0], len(order)))
    )
    return listing


def _folder(listing: Listing, root: str | None, options: Mapping[str, Any]) -> None:
    place = folder.find_root(root)
    layout = _layout(options)
    find = partial(folder.find_pairs, place, layout=layout)
    # First: what is wrong with the files is told without classes, too.
    _all_pairs(listing, folder.find_splits(place, layout), find)
    spec, colors = catalog.find_classes(place, options["classes_file"])
    listing.meaning = Meaning(spec, colors, options["mask_values"])


def masks_of(root: str | None, options: Mapping[str, Any]) -> list[Path]:
    """The masks of all splits of a ``folder``, whatever else is wrong with it."""
    try:
        place = folder.find_root(root)
        layout = _layout(options)
        found = [
            folder.find_pairs(place, split, layout, tell=lambda *_: None)
            for split in folder.find_splits(place, layout)
        ]
    except ValueError:
        return []
    return [pair.mask for pairs in found for pair in pairs]


def _layout(options: Mapping[str, Any]) -> folder.Layout:
    fields = folder.Layout.__dataclass_fields__
    return folder.Layout(**{k: v for k, v in options.items() if k in fields})


def _camvid(listing: Listing, root: str | None) -> None:
    listing.meaning = Meaning(camvid.SPEC)
    place = camvid.find_folder(root)
    names = camvid.splits(place)
    if not names:
        raise ValueError(f"camvid: {place} has no list file such as train.txt")
    _all_pairs(listing, names, partial(camvid.find_pairs, place))


def _all_pairs(
    listing: Listing, names: Iterable[str], find: Callable[..., list[Pair]]
) -> None:
    beside: set[Path] = set()
    for split in names:
        pairs = find(split, tell=listing.tell(split))
        listing.splits[split] = [partial(Stored.of, pair) for pair in pairs]
        beside |= {file.parent for pair in pairs for file in (pair.image, pair.mask)}
    # What a folder lacks that all splits share is told once for each of them.
    of_splits: dict[Fault, set[str]] = {}
    for split, fault in listing.told:
        of_splits.setdefault(fault, set()).add(split)
    listing.told = [
        (next(iter(found)) if len(found) == 1 else "", fault)
        for fault, found in of_splits.items()
    ]
    for place in sorted(beside):
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in _OTHER:
                text = f"{path}: read are {' '.join(EXTENSIONS)}"
                listing.tell("")("file-passed-over", [path], text)


def _opened(
    listing: Listing,
    name: str,
    root: str | None,
    wanted: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Sources that are not made of files side by side."""
    whole = splits(name, root=root, **options)
    if name in ("class_folder", "tfds") and options["channels"] is None:
        # Else the first image would be read for its channels, and may be damaged.
        options = {**options, "channels": 3}
    # tensorflow-datasets takes slices, train[:90%], which would come once more.
    names = [*wanted, *(s for s in whole if not any(w.startswith(s) for w in wanted))]
    for split in dict.fromkeys(names):
        if split.split("[")[0] not in whole:
            continue
        source = open_source(name, split, root=root, **options)
        listing.meaning = listing.meaning or meaning_of(source)
        listing.splits[split] = loads(source, range(len(source)))


def meaning_of(source: Source) -> Meaning:
    """How a source's masks are read; without files they hold class ids."""
    return getattr(source, "meaning", None) or Meaning(source.spec)


def loads(source: Source, indices: Iterable[int]) -> list[Load]:
    """How to load these examples of a source, as files where it has any."""
    get = getattr(source, "stored", source.__getitem__)
    return [partial(get, index) for index in indices]
