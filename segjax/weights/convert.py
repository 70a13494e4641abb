"""Variables from a PyTorch state dict and back."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.segmenter import Segmenter
from segjax.weights.files import read_file
from segjax.weights.naming import Entry, detect, entries

Source = str | os.PathLike | Mapping[str, Any]


def load_torch(
    model: Segmenter,
    source: Source,
    image_shape: tuple[int, int, int] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> dict[str, Any]:
    """Variables of ``model`` with the values of a PyTorch state dict.

    Args:
      model: from :func:`segjax.models.build`.
      source: a .safetensors, .pth or .pt file (read as data, nothing is executed), or
        a mapping from names to arrays or tensors, named as in
        segmentation_models_pytorch, or (encoder alone) in torchvision's classifiers.
      image_shape: (H, W, C) to trace the model with; no value depends on it.
      allow_missing: patterns (fnmatch) of names or variable paths ("decoder/*") that
        may lack in the source; they are initialised with key 0.
      allow_unexpected: patterns of names in the source to ignore ("fc.*").

    Returns:
      {"params": ..., "batch_stats": ...} as NumPy arrays in the model's param_dtype.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape; lists them all.
    """
    where = "the state dict"
    if not isinstance(source, Mapping):
        where = os.fspath(source)
        source = read_file(Path(where))
    tensors = {
        name: value
        for name, value in source.items()
        if not name.endswith("num_batches_tracked")
    }
    shape = image_shape or (64, 64, model.in_channels)
    image = jax.ShapeDtypeStruct((1, *shape), model.layers.dtype)
    abstract = jax.eval_shape(model.init, jax.random.key(0), image)
    wanted = list(entries(model, abstract, detect(list(tensors))))
    missing = [entry for entry in wanted if entry.name not in tensors]
    _check(tensors, wanted, missing, allow_missing, allow_unexpected, where)
    result: dict[str, Any] = {}
    for entry in wanted:
        if entry.name is not None and entry.name in tensors:
            value = entry.from_torch(_array(tensors[entry.name]))
            # A copy: a torch model that trains on must not change these.
            _put(result, entry, np.array(value, entry.dtype, order="C"))
    for entry, value in zip(missing, _initial(model, shape, missing), strict=True):
        _put(result, entry, np.asarray(value))
    return result


def to_torch(
    model: Segmenter, variables: Mapping[str, Any], naming: str = "smp"
) -> dict[str, np.ndarray]:
    """The state dict of ``variables`` in a package's naming; inverse of load_torch.

    ``num_batches_tracked`` is 0 for every batch norm. In the naming "torchvision" only
    the encoder has names.

    Raises:
      ValueError: unknown naming.
    """
    state = {}
    collections = {k: variables[k] for k in ("params", "batch_stats") if k in variables}
    for entry in entries(model, collections, naming):
        if entry.name is None:
            continue
        value = entry.to_torch(np.asarray(_get(collections, entry)))
        state[entry.name] = np.array(value, order="C")  # no view of the variables
        if entry.path[-1] == "mean":
            counter = entry.name.removesuffix("running_mean") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    return state


def _initial(model, image_shape, wanted: Sequence[Entry]) -> list[jax.Array]:
    """The initial values of these variables alone, which is all that compiles."""
    if not wanted:
        return []

    def values(key):
        variables = model.init(key, jnp.zeros((1, *image_shape), model.layers.dtype))
        return [_get(variables, entry) for entry in wanted]

    return jax.jit(values)(jax.random.key(0))


def _get(tree: Any, entry: Entry) -> Any:
    for key in (entry.collection, *entry.path):
        tree = tree[key]
    return tree


def _array(value: Any) -> np.ndarray:
    """A NumPy array from anything that is one or can become one (a torch tensor)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value)


def _put(tree: dict[str, Any], entry: Entry, value: np.ndarray):
    for key in (entry.collection, *entry.path[:-1]):
        tree = tree.setdefault(key, {})
    tree[entry.path[-1]] = value


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check(tensors, wanted, missing, allow_missing, allow_unexpected, where):
    """One error that lists everything that does not fit."""
    known = {entry.name for entry in wanted}
    lacking = [
        entry.name or "/".join(entry.path)
        for entry in missing
        if not _matches(entry.name or "", allow_missing)
        and not _matches("/".join(entry.path), allow_missing)
    ]
    surplus = [
        name
        for name in tensors
        if name not in known and not _matches(name, allow_unexpected)
    ]
    shapes = []
    for entry in wanted:
        if entry.name in tensors:
            found = tuple(tensors[entry.name].shape)
            if found != entry.torch_shape:
                shapes.append(f"{entry.name} {found} instead of {entry.torch_shape}")
    problems = [
        f"{len(found)} {kind}: {', '.join(found)}"
        for kind, found in (
            ("missing", lacking),
            ("unexpected", surplus),
            ("of another shape", shapes),
        )
        if found
    ]
    if problems:
        raise ValueError(f"{where} does not fit the model: " + "; ".join(problems))
