"""Sources of examples (NumPy in, NumPy out) and the pipeline that batches them.

Nothing here imports jax: a source can be read, and a worker process started, without
a device. Each source lives in the module of its name, imported when it is asked for.
"""

import difflib
import importlib
from types import ModuleType
from typing import Any

from segjax.batch import Source

NAMES = ("shapes", "folder", "camvid", "tfds")
"""The sources that :func:`open_source` knows."""


def open_source(
    name: str, split: str, *, root: str | None = None, **options: Any
) -> Source:
    """Open one split of a dataset.

    ``options`` are the source's own (see ``Shapes``, ``Folder``, ``CamVid``, ``Tfds``).

    Raises:
      ValueError: the source or the split is unknown (the known ones are listed), or
        what lies under ``root`` is not what the source expects.
    """
    module = _module(name)
    if name == "shapes":
        _without_root(root)
        return module.Shapes(split, **options)
    source = {"folder": "Folder", "camvid": "CamVid", "tfds": "Tfds"}[name]
    return getattr(module, source)(root, split, **options)


def splits(name: str, *, root: str | None = None, **options: Any) -> tuple[str, ...]:
    """The splits of a dataset that can be opened, in the order of their definition.

    Raises:
      ValueError: the source is unknown, or there is nothing to read under ``root``.
    """
    module = _module(name)
    if name == "shapes":
        _without_root(root)
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


def _without_root(root: str | None) -> None:
    if root is not None:
        raise ValueError(
            f"data.root={root!r}, but 'shapes' is rendered and reads no files; leave "
            "data.root out, or set data.name to 'folder'"
        )
