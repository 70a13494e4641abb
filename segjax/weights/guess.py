"""What a state dict tells of the network that it is for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.weights.inflate import find_stems, shapes
from segjax.weights.naming import Layout, Model, detect, entries, renamed


class Guess(NamedTuple):
    """Whose names the tensors have; for how many classes, for which image channels."""

    naming: str
    num_classes: int
    in_channels: int


def guess(
    make: Callable[[int], Model], tensors: Mapping[str, Any], naming: str | None = None
) -> Guess:
    """Naming, classes and image channels of a segmentation network's state dict.

    Args:
      make: the number of classes -> the model; traced with 1 and 2 classes to find
        the tensors that follow the number.
      tensors: name -> array.
      naming: whose names; None: found out.

    Raises:
      ValueError: the layer of scores is not among the tensors; the model has no such
        naming.
    """
    one, tensors, layout = _laid_out(make, tensors, naming)
    for name, growth in _scores(one, make(2), layout):
        found = tensors.get(name)
        if found is not None and found.ndim == len(growth):
            axis = next(axis for axis, (_, more) in enumerate(growth) if more)
            n, more = growth[axis]
            classes = 1 + (found.shape[axis] - n) // more
            return Guess(layout.naming, classes, _channels(one, layout, tensors))
    raise ValueError(
        "these weights hold no layer of scores under the names of this encoder and "
        "decoder; are they an encoder's alone, or another decoder's?"
    )


def with_background(
    make: Callable[[int], Model], tensors: Mapping[str, Any], naming: str | None = None
) -> dict[str, Any]:
    """A state dict of one score per pixel as one of two: 0 for the background, first.

    The softmax over (0, x) is the sigmoid of x, and its argmax says whether x > 0.
    Arguments as of :func:`guess`.
    """
    one, tensors, layout = _laid_out(make, tensors, naming)
    for name, growth in _scores(one, make(2), layout):
        if name in tensors:
            wider = [(more, 0) for _, more in growth]
            tensors[name] = np.pad(np.asarray(tensors[name]), wider)
    return tensors


def _size(model: Model) -> tuple[int, int, int]:
    return 64, 64, model.in_channels


def _laid_out(
    make: Callable[[int], Model], tensors: Mapping[str, Any], naming: str | None
) -> tuple[Model, dict[str, Any], Layout]:
    """The model of one class, the tensors under names of today, and whose they are."""
    one = make(1)
    tensors = {now: tensors[name] for now, name in renamed(one, tensors).items()}
    return one, tensors, detect(one, shapes(one, _size(one)), tensors, naming)


def _scores(one: Model, two: Model, layout: Layout):
    """(name, (size, growth with a class more) of each axis) of what classes widen."""
    here, there = shapes(one, _size(one)), shapes(two, _size(two))
    for a, b in zip(
        entries(one, here, layout), entries(two, there, layout), strict=True
    ):
        if a.torch_shape != b.torch_shape:
            sizes = zip(a.torch_shape, b.torch_shape, strict=True)
            growth = [(n, m - n) for n, m in sizes]
            for name in a.names:
                yield f"{layout.prefix}{name}", growth


def _channels(model: Model, layout: Layout, tensors: Mapping[str, Any]) -> int:
    """Those of the images, by the stem's kernel; where it lacks, the model's."""
    stems = find_stems(model, _size(model))
    for entry in entries(model, shapes(model, _size(model)), layout):
        for name in entry.names if entry.path in stems else ():
            found = tensors.get(f"{layout.prefix}{name}")
            if found is not None and found.ndim == 4:
                return found.shape[1]
    return model.in_channels
