"""Sources of examples (NumPy in, NumPy out) and the pipeline that batches them.

Nothing here imports jax: a source can be read, and a worker process started, without
a device. Each source lives in the module of its name, imported when it is asked for.
"""

import difflib
import importlib
from types import ModuleType
from typing import Any

from segjax.batch import Source
from segjax.data.subset import Subset

SOURCES: dict[str, dict[str, str]] = {
    "segmentation": {
        "shapes": "Shapes",
        "folder": "Folder",
        "camvid": "CamVid",
        "tfds": "Tfds",
    },
    "classification": {
        "shapes": "ShapeClasses",
        "class_folder": "ClassFolder",
        "digits": "Digits",
        "tfds": "TfdsClasses",
    },
}
"""Task -> the datasets that have labels for it -> the source's class."""

NAMES = tuple(dict.fromkeys(name for known in SOURCES.values() for name in known))
"""The datasets that :func:`open_source` knows, for whatever task."""

_EMBEDDED = ("shapes", "digits")


def open_source(
    name: str,
    split: str,
    *,
    root: str | None = None,
    task: str = "segmentation",
    subset: int | None = None,
    **options: Any,
) -> Source:
    """Open one split of a dataset, or ``subset`` evenly spaced examples of it.

    ``options`` are the source's own (see the classes that :data:`SOURCES` names).

    Raises:
      ValueError: the source or the split is unknown (the known ones are listed), or
        what lies under ``root`` is not what the source expects.
    """
    module, known = _module(name), SOURCES[task]
    if name not in known:
        raise ValueError(
            f"data.name={name!r} has no labels for task={task!r}; those that have: "
            f"{', '.join(known)}"
        )
    source = getattr(module, known[name])
    if name in _EMBEDDED:
        _without_root(name, root)
        opened = source(split, **options)
    else:
        opened = source(root, split, **options)
    return opened if subset is None else Subset(opened, subset)


def splits(name: str, *, root: str | None = None, **options: Any) -> tuple[str, ...]:
    """The splits of a dataset that can be opened, in the order of their definition.

    Raises:
      ValueError: the source is unknown, or there is nothing to read under ``root``.
    """
    module = _module(name)
    if name in _EMBEDDED:
        _without_root(name, root)
        return module.SPLITS
    return tuple(module.splits(root, **options))


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"data.name={name!r} is not a dataset; known: {', '.join(NAMES)}{hint}"
        )
    return importlib.import_module(f"segjax.data.{name}")


def _without_root(name: str, root: str | None) -> None:
    if root is not None:
        raise ValueError(
            f"data.root={root!r}, but {name!r} comes with segjax and reads no files "
            "of yours; leave data.root out, or set data.name to 'folder'"
        )
