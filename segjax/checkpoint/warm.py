"""Warm start: parameters and batch statistics out of another run's checkpoint."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from segjax.checkpoint.digest import find_damage
from segjax.checkpoint.folder import find_step
from segjax.checkpoint.reading import (
    by_path,
    differences,
    one_line,
    quiet_orbax,
    refuse,
    restore_tree,
    stored_leaves,
)


def restore_params(
    path: str | Path,
    abstract: Mapping[str, Any],
    *,
    step: int | str = "best",
    ema: bool = False,
    metric: str = "miou",
    allow_missing: Sequence[str] = (),
) -> dict[str, Any]:
    """Read parameters and batch statistics from a checkpoint of any run.

    Args:
      path: a workdir, its ``checkpoints`` folder, or the folder of one step.
      abstract: ``{"params": ..., "batch_stats": ...}`` of ``jax.ShapeDtypeStruct``
        with shardings (without one, a leaf becomes a NumPy array), in the dtype that
        is wanted; leave out what is not.
      step: "best" by ``metric`` (the newest where none has it), "latest" or a number.
      ema: take the averaged parameters for ``params``, where the run kept any.
      metric: what "best" means; larger is better.
      allow_missing: patterns (fnmatch on "params/decoder/head/kernel"); leaves that
        match may be missing or of another shape, and are then left out.

    Returns:
      Nested dicts of arrays, structured as ``abstract``.

    Raises:
      ValueError: no such checkpoint, a damaged one, or one of another model.
    """
    quiet_orbax()
    folder = find_step(path, step, metric)
    damage = find_damage(folder)
    if damage is not None:
        raise ValueError(f"{folder} is damaged ({damage}); choose another step")
    try:
        stored = stored_leaves(folder)
    except Exception as error:
        raise ValueError(f"{folder} cannot be read ({one_line(error)})") from error
    source = {key: key for key in abstract}
    if ema and any(name.startswith("ema/") for name in stored):
        source["params"] = "ema"
        stored = {
            name.replace("ema/", "params/", 1): leaf
            for name, leaf in stored.items()
            if not name.startswith("params/")
        }
    wrong = differences(by_path(abstract), stored, dtypes=False)
    left_out = {n for n in wrong if any(fnmatch(n, p) for p in allow_missing)}
    wrong = {name: what for name, what in wrong.items() if name not in left_out}
    refuse(folder, wrong, "name what may differ in allow_missing")
    chosen = {key: _without(abstract[key], left_out, key) for key in abstract}
    item = {source[key]: value for key, value in chosen.items()}
    if not by_path(item):
        raise ValueError(f"{folder}: nothing is left to read of {', '.join(abstract)}")
    try:
        restored = restore_tree(folder, item, partial=True)
    except Exception as error:
        raise ValueError(f"{folder} cannot be read ({one_line(error)})") from error
    return {key: restored.get(source[key], {}) for key in chosen}


def _without(tree: Any, paths: set[str], prefix: str) -> Any:
    """Nested dicts without the leaves at ``paths``, nor dicts that become empty."""
    if not isinstance(tree, Mapping):
        return tree
    kept = {
        key: _without(value, paths, f"{prefix}/{key}")
        for key, value in tree.items()
        if f"{prefix}/{key}" not in paths
    }
    return {k: v for k, v in kept.items() if not (isinstance(v, Mapping) and not v)}
