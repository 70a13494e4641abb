"""``classes.json``: what the ids and colours in a user's masks mean.

It holds one of

* a list of names, whose ids are their places: ``["background", "road"]``;
* a list of objects ``{"name": ..., "color": ..., "id": ...}``. ``color`` is
  ``[r, g, b]`` or ``"#rrggbb"``, ``id`` the number in the masks; all have it or none;
* ``{"classes": <one of these>, "ignore": [...]}``, where ``ignore`` lists ids or
  colours of pixels that count nowhere. Id 255 is ignored too unless a class claims it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.batch import IGNORE, LabelSpec, default_palette
from segjax.data.files import Color

UNKNOWN = -1
"""In a LabelSpec's remap: an id that is an error although it is below K."""

EXAMPLE = (
    '["background", "road"] or [{"name": "road", "color": [128, 64, 128], "id": 7}]'
)


def read_classes(path: str | Path) -> tuple[LabelSpec, dict[Color, int]]:
    """Read ``classes.json``: the classes, and the table RGB colour -> stored id.

    The table is empty where no class has a colour.

    Raises:
      ValueError: the file is missing or not of one of the forms above.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; write the classes in it: {EXAMPLE}; segjax doctor "
            "proposes them from the masks"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); write {EXAMPLE}") from None
    try:
        return parse_classes(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_classes(value: Any) -> tuple[LabelSpec, dict[Color, int]]:
    """The same from the parsed JSON ``value``; errors do not name a file."""
    ignore = []
    if isinstance(value, dict):
        _known_keys(value, ("classes", "ignore"), "the top level")
        ignore, value = value.get("ignore", []), value.get("classes")
    if not isinstance(value, list) or not value or not isinstance(ignore, list):
        raise ValueError(f"holds no list of classes; write {EXAMPLE}")
    entries = [{"name": e} if isinstance(e, str) else e for e in value]
    names = tuple(_class_name(entry, k) for k, entry in enumerate(entries))
    ids = [_id(i, "id") for i in _all_or_none(entries, "id")] or list(range(len(names)))
    palette = tuple(_color(c) for c in _all_or_none(entries, "color"))
    _unique(ids, "id")
    ignored_ids = tuple(_id(i, "ignore") for i in ignore if isinstance(i, int))
    ignored_colors = [_color(c) for c in ignore if not isinstance(c, int)]
    _unique([*ids, *ignored_ids], "id")
    _unique([*palette, *ignored_colors], "colour")
    if ignored_colors and not palette:
        raise ValueError("'ignore' lists colours, but the classes have none: add color")
    colors = dict(zip(palette, ids, strict=True)) if palette else {}
    if ignored_colors:
        free = next(i for i in range(IGNORE, -1, -1) if i not in ids)
        ignored_ids = tuple(dict.fromkeys((*ignored_ids, free)))
        colors |= dict.fromkeys(ignored_colors, free)
    remap = {i: k for k, i in enumerate(ids) if i != k}
    # Without this an id that no class claims would be read as the class of that index.
    unclaimed = set(range(len(ids))) - set(ids) - set(ignored_ids)
    remap |= dict.fromkeys(sorted(unclaimed), UNKNOWN)
    spec = LabelSpec(
        names=names,
        palette=palette or default_palette(len(names)),
        ignore=ignored_ids,
        remap=tuple(remap.items()),
    )
    return spec, colors


def spread(items: Sequence[Any]) -> Sequence[Any]:
    """At most 16 of them, evenly: in the first ones there may be no object."""
    return items[:: max(1, -(-len(items) // 16))]


def is_white_unclaimed(spec: LabelSpec) -> bool:
    """Two classes, neither of which has the id 255, and nobody said to ignore it."""
    claimed = IGNORE in dict(spec.remap) or IGNORE in spec.ignore
    return spec.num_classes == 2 and not claimed


def check_black_and_white(paths: Sequence[Path | str], masks: Sequence[np.ndarray]):
    """Two-class masks painted black and white, whose white would be ignored."""
    ids = {int(i) for mask in masks for i in np.unique(mask)}
    if IGNORE in ids <= {0, IGNORE}:
        raise ValueError(
            f"{paths[0]}: the ids are 0 and 255 where the two classes are 0 and 1, and "
            '255 means ignored: give the second class "id": 255 in classes.json, or '
            "list 255 under 'ignore' if it is meant so"
        )


def _class_name(entry: Any, place: int) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(
            f"class {place} is {entry!r}; write a name or an object with a name"
        )
    _known_keys(entry, ("name", "color", "id"), f"class {entry['name']!r}")
    return entry["name"]


def _known_keys(value: dict, known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(
            f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(known)}"
        )


def _all_or_none(entries: list[dict], key: str) -> list[Any]:
    given = [entry[key] for entry in entries if key in entry]
    if given and len(given) < len(entries):
        lacking = next(e["name"] for e in entries if key not in e)
        raise ValueError(
            f"class {lacking!r} has no {key} while others have; give every class a "
            f"{key}, or none"
        )
    return given


def _id(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
        raise ValueError(f"{key} {value!r} is not a whole number from 0 to 255")
    return value


def _color(value: Any) -> Color:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(f"color {value!r} is neither [r, g, b] nor '#rrggbb'")
    red, green, blue = (_id(v, "the colour value") for v in value)
    return red, green, blue


def _unique(values: list, what: str) -> None:
    twice = [v for v in values if values.count(v) > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]} occurs twice; each belongs to one class")
