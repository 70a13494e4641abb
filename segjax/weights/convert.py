"""Variables from a PyTorch state dict and back."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.classifier import Classifier
from segjax.weights.braces import braces
from segjax.weights.files import read_file
from segjax.weights.inflate import HINT, find_stems, inflate_kernel, shapes
from segjax.weights.naming import (
    Entry,
    Layout,
    Model,
    buffers,
    detect,
    entries,
    find_layout,
    renamed,
)

# A batch norm's counter; Swin's table of offsets, a buffer in older files.
NOTHING_LEARNED = ("num_batches_tracked", "relative_position_index")

Source = str | os.PathLike | Mapping[str, Any]


def load_torch(
    model: Model,
    source: Source,
    image_shape: tuple[int, int, int] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    naming: str | None = None,
    inflate: str | None = None,
    initialize: bool = True,
) -> dict[str, Any]:
    """Variables of ``model`` with the values of a PyTorch state dict.

    A file of a Segmenter's encoder alone, or of the classifier around it, fills the
    encoder; the classifier's own head is passed over.

    Args:
      model: from :func:`segjax.models.build` or ``build_classifier``.
      source: a .safetensors, .pth or .pt file (read as data, nothing is executed), or
        a mapping from names to arrays or tensors, named as in torchvision, timm,
        segmentation_models_pytorch or transformers. A prefix of all names is found.
      image_shape: (H, W, C) to trace the model with; no value depends on it.
      allow_missing: patterns (fnmatch) of names or variable paths ("decoder/*") that
        may lack in the source.
      allow_unexpected: patterns of names in the source to ignore ("fc.*").
      naming: whose names; None: found out.
      inflate: how a stem for other images becomes one for ``model.in_channels``:
        "repeat", "mean" or "zero" (:func:`segjax.weights.inflate.inflate_kernel`);
        None: it is of another shape, an error.
      initialize: what lacks gets its initial value, of key 0; False leaves it out.

    Returns:
      {"params": ..., "batch_stats": ...} as NumPy arrays in the model's param_dtype.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape; lists them all.
    """
    where = "the state dict"
    if not isinstance(source, Mapping):
        where = os.fspath(source)
        source = read_file(Path(where))
    source = {now: source[name] for now, name in renamed(model, source).items()}
    shape = image_shape or (64, 64, model.in_channels)
    abstract = shapes(model, shape)
    layout = detect(model, abstract, source, naming)
    unused = buffers(model, layout)
    tensors = {
        name.removeprefix(layout.prefix): value
        for name, value in source.items()
        if not name.endswith(NOTHING_LEARNED)
        and name.removeprefix(layout.prefix) not in unused
    }
    if not isinstance(model, Classifier) and not layout.whole:
        allow_unexpected = (*allow_unexpected, *model.encoder.head_names)
    wanted = list(entries(model, abstract, layout))
    missing = [e for e in wanted if not e.names or not set(e.names) <= set(tensors)]
    others = _other_stems(model, shape, wanted, tensors)
    if inflate is not None:
        for name in others:
            kernel = _array(tensors[name])
            tensors[name] = inflate_kernel(kernel, model.in_channels, inflate)
        others = []
    _check(tensors, wanted, missing, allow_missing, allow_unexpected, where, others)
    result: dict[str, Any] = {}
    for entry in wanted:
        if entry not in missing:
            value = entry.from_torch([_array(tensors[name]) for name in entry.names])
            # A copy: a torch model that trains on must not change these.
            _put(result, entry, np.array(value, entry.dtype, order="C"))
    if initialize:
        for entry, value in zip(missing, _initial(model, shape, missing), strict=True):
            _put(result, entry, np.asarray(value))
    return result


def to_torch(
    model: Model, variables: Mapping[str, Any], naming: str = "smp"
) -> dict[str, np.ndarray]:
    """The state dict of ``variables`` in a package's naming; inverse of load_torch.

    ``num_batches_tracked`` is 0 for every batch norm. In a naming that the decoder does
    not have ("timm", or "torchvision" for a U-Net), it is the encoder's alone.

    Raises:
      ValueError: a naming that the model does not have.
    """
    layout: Layout = find_layout(model, naming)[0]
    collections = {k: variables[k] for k in ("params", "batch_stats") if k in variables}
    state = buffers(model, layout)
    for entry in entries(model, collections, layout):
        if not entry.names:
            continue
        parts = entry.to_torch(np.asarray(_get(collections, entry)))
        for name, value in zip(entry.names, parts, strict=True):
            state[name] = np.array(value, order="C")  # no view of the variables
            if entry.path[-1] == "mean":
                counter = name.removesuffix("running_mean") + "num_batches_tracked"
                state[counter] = np.zeros((), np.int64)
    return state


def _other_stems(model, image_shape, wanted: Sequence[Entry], tensors) -> list[str]:
    """Names of the stems that are for another number of channels than the model's."""
    found = {}
    for entry in wanted:
        if len(entry.names) == 1 and entry.names[0] in tensors:
            here, there = entry.torch_shape, tuple(tensors[entry.names[0]].shape)
            if len(here) == len(there) == 4 and here[1] == model.in_channels:
                if here != there and (here[0], *here[2:]) == (there[0], *there[2:]):
                    found[entry.path] = entry.names[0]
    stems = find_stems(model, image_shape) if found else set()
    return [name for path, name in found.items() if path in stems]


def _initial(model: Model, image_shape, wanted: Sequence[Entry]) -> list[jax.Array]:
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
        if str(value.dtype) == "torch.bfloat16":  # of which NumPy has none
            value = value.float()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value)


def _put(tree: dict[str, Any], entry: Entry, value: np.ndarray):
    for key in (entry.collection, *entry.path[:-1]):
        tree = tree.setdefault(key, {})
    tree[entry.path[-1]] = value


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check(tensors, wanted, missing, allow_missing, allow_unexpected, where, others):
    """One error that lists everything that does not fit; ``others``: inflatable."""
    known = {name for entry in wanted for name in entry.names}
    lacking = []
    for entry in missing:
        path = "/".join(entry.path)
        absent = [name for name in entry.names if name not in tensors] or [path]
        if not _matches(path, allow_missing):
            lacking += [name for name in absent if not _matches(name, allow_missing)]
    surplus = [
        name
        for name in tensors
        if name not in known and not _matches(name, allow_unexpected)
    ]
    shapes: dict[str, list[str]] = {}
    for entry in wanted:
        for name in entry.names:
            if name in tensors:
                found = tuple(tensors[name].shape)
                if found != entry.torch_shape:
                    text = f"{found} instead of {entry.torch_shape}"
                    shapes.setdefault(text, []).append(name)
    problems = [
        f"{len(found)} {kind}: {braces(found)}"
        for kind, found in (("missing", lacking), ("unexpected", surplus))
        if found
    ]
    if shapes:
        count = sum(map(len, shapes.values()))
        listed = (f"{braces(names)} {text}" for text, names in shapes.items())
        problems.append(f"{count} of another shape: {', '.join(listed)}")
    if others:
        problems.append(HINT)
    if problems:
        raise ValueError(f"{where} does not fit the model: " + "; ".join(problems))
