"""Which tensors of a PyTorch state dict are which variable of a model."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.models.classifier import Classifier
from segjax.models.naming import NAMINGS, Parts, Tensors
from segjax.models.segmenter import Segmenter

Model = Segmenter | Classifier

LEAVES = {
    "kernel": "weight",
    "transposed_kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# Ours to torch's: a convolution is HWIO and OIHW, a transposed one HWIO and IOHW, a
# dense layer IO and OI.
AXES = {
    ("kernel", 4): (3, 2, 0, 1),
    ("transposed_kernel", 4): (2, 3, 0, 1),
    ("kernel", 2): (1, 0),
}


class Layout(NamedTuple):
    """A naming, whether it names the whole network, and what stands before each name.

    ``whole`` False: the state dict is of a Segmenter's encoder, or a classifier's.
    """

    naming: str
    whole: bool = True
    prefix: str = ""


@dataclass(frozen=True)
class Entry:
    """One variable: ``path`` below its collection, and its tensors in torch.

    Several ``names`` are joined along torch's first axis. None where the naming has no
    such tensor (a decoder in a classifier's file). ``torch_shape`` is that of one.
    """

    collection: str
    path: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    torch_shape: tuple[int, ...]
    dtype: Any

    @property
    def axes(self) -> tuple[int, ...]:
        """The transposition of our array into torch's."""
        own = tuple(range(len(self.shape)))
        return AXES.get((self.path[-1], len(self.shape)), own)

    def from_torch(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Our array from torch's."""
        array = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        moved = tuple(self.shape[axis] for axis in self.axes)
        return array.reshape(moved).transpose(np.argsort(self.axes))

    def to_torch(self, array: np.ndarray) -> list[np.ndarray]:
        """The inverse of :meth:`from_torch`."""
        parts = np.split(array.transpose(self.axes), max(len(self.names), 1))
        return [part.reshape(self.torch_shape) for part in parts]


def entries(
    model: Model, variables: Mapping[str, Any], layout: Layout
) -> Iterator[Entry]:
    """Every variable of ``model``, whose arrays or abstract shapes are ``variables``.

    Names are without the layout's prefix.
    """
    for keys, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        collection, *path = (key.key for key in keys)
        found = _tensors(model, tuple(path), layout)
        axes = AXES.get((path[-1], leaf.ndim), tuple(range(leaf.ndim)))
        torch_shape = tuple(leaf.shape[axis] for axis in axes)
        if found.shape is not None:
            torch_shape = found.shape
        elif len(found.names) > 1:
            torch_shape = (torch_shape[0] // len(found.names), *torch_shape[1:])
        shape = tuple(leaf.shape)
        yield Entry(
            collection, tuple(path), found.names, shape, torch_shape, leaf.dtype
        )


def _tensors(model: Model, path: tuple[str, ...], layout: Layout) -> Tensors:
    """Names and shape of the tensors that a parameter's path stands for."""
    suffix = LEAVES.get(path[-1])
    found, prefix = _module(model, path[:-1] if suffix else path, layout)
    if isinstance(found, str):
        found = Tensors((found,))
    if found is None:
        return Tensors(())
    end = f".{suffix}" if suffix else ""
    names = tuple(f"{prefix}{name}{end}".removeprefix(".") for name in found.names)
    return Tensors(names, found.shape)


def _module(model: Model, path: tuple[str, ...], layout: Layout):
    """What a part of the network calls a path in it, and the part's own prefix."""
    part, rest, naming = path[0], path[1:], layout.naming
    if isinstance(model, Classifier):
        found = model.encoder if part == "encoder" else model.head
        return found.torch_name(rest, naming), ""
    if not layout.whole:
        encoder = part == "encoder"
        return (model.encoder.torch_name(rest, naming) if encoder else None), ""
    parts = parts_of(model, naming)
    if part == "encoder":
        found = model.encoder.torch_name(rest, naming)
        if naming == "torchvision" and isinstance(found, str):
            # Its segmentation networks take MobileNet's ``features`` as the backbone.
            found = found.removeprefix(getattr(model.encoder, "torch_root", ""))
        return found, parts.encoder
    if part == "decoder":
        return model.decoder.torch_name(rest, naming), parts.decoder
    if part == "auxiliary" and model.auxiliary is not None:
        return model.auxiliary.torch_name(rest, naming), parts.auxiliary
    return parts.head, ""


def parts_of(model: Segmenter, naming: str) -> Parts:
    """Where a publisher keeps the parts of the network."""
    return model.decoder.torch_parts.get(naming, Parts())


def layouts(model: Model) -> list[Layout]:
    """Every naming that the model's parts have, whole networks first."""
    own = model.encoder.namings
    if isinstance(model, Classifier):  # of which SMP has none
        return [Layout(n) for n in NAMINGS if n in own and n != "smp"]
    whole = [
        Layout(naming)
        for naming in NAMINGS
        if naming in own and naming in model.decoder.torch_parts
    ]
    return whole + [Layout(naming, False) for naming in NAMINGS if naming in own]


def namings(model: Model) -> dict[str, bool]:
    """{naming that the model can have: whether for the whole network}."""
    found: dict[str, bool] = {}
    for layout in layouts(model):
        found.setdefault(layout.naming, layout.whole)
    return found


def find_layout(model: Model, naming: str | None) -> list[Layout]:
    """The model's layouts of one naming, or all.

    Raises:
      ValueError: the model has no such naming.
    """
    known = layouts(model)
    if not known:
        raise ValueError("nobody publishes weights of this classifier")
    if naming is None:
        return known
    chosen = [layout for layout in known if layout.naming == naming]
    if not chosen:
        names = ", ".join(dict.fromkeys(layout.naming for layout in known))
        raise ValueError(f"unknown naming {naming!r} for this model; known: {names}")
    return chosen


def detect(
    model: Model,
    variables: Mapping[str, Any],
    names: Iterable[str],
    naming: str | None = None,
) -> Layout:
    """The layout under which most of the model's tensors are among ``names``.

    Something before all names ("module.", "model.", "encoder.") is found as well. A
    file that has the encoder's tensors alone is not one of the whole network.
    """
    given = set(names)
    best, most = None, -1
    for layout in find_layout(model, naming):
        found = list(entries(model, variables, layout))
        wanted = {n for e in found for n in e.names}
        rest = {n for e in found if e.path[0] != "encoder" for n in e.names}
        segmenter = layout.whole and isinstance(model, Segmenter)
        for prefix in _prefixes(given, wanted):
            count = sum(f"{prefix}{name}" in given for name in wanted)
            if segmenter and not any(f"{prefix}{name}" in given for name in rest):
                count = 0
            if count > most:
                best, most = layout._replace(prefix=prefix), count
    assert best is not None
    return best


def _prefixes(given: set[str], wanted: set[str]) -> list[str]:
    """What stands before three of the wanted names in the given ones, and nothing."""
    found = {""}
    for name in sorted(wanted, key=len)[-3:]:
        end = f".{name}"
        found |= {g.removesuffix(name) for g in given if g.endswith(end)}
    return sorted(found, key=len)


def renamed(model: Model, names: Iterable[str]) -> dict[str, str]:
    """{name today: name in the file}: packages rename modules and read older files.

    A part's ``torch_renames`` are pairs of a pattern and what takes its place (re.sub).
    """
    rules = [
        rule
        for part in (model.encoder, getattr(model, "decoder", None))
        for rule in getattr(part, "torch_renames", ())
    ]
    found = {}
    for name in names:
        now = name
        for pattern, replacement in rules:
            now = re.sub(pattern, replacement, now)
        found[now] = name
    return found


def buffers(model: Model, layout: Layout) -> dict[str, np.ndarray]:
    """Tensors of the publisher's network that take no part in its result.

    Index tables and layers that are never run, with the values that
    :func:`segjax.weights.to_torch` writes.
    """
    found: dict[str, np.ndarray] = {}
    modules = {"": model.encoder}
    if layout.whole and isinstance(model, Segmenter):
        parts = parts_of(model, layout.naming)
        modules = {parts.encoder: model.encoder, parts.decoder: model.decoder}
    for prefix, module in modules.items():
        make = getattr(module, "torch_buffers", None)
        if make is not None:
            found |= {f"{prefix}{k}": v for k, v in make(layout.naming).items()}
    return found
