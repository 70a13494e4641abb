"""What a state dict tells of the network that it is for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from segjax.weights.inflate import shapes
from segjax.weights.naming import Model, detect, entries


class Guess(NamedTuple):
    """Whose names the tensors have, and for how many classes they are."""

    naming: str
    num_classes: int


def guess(
    make: Callable[[int], Model], tensors: Mapping[str, Any], naming: str | None = None
) -> Guess:
    """Naming and number of classes of a segmentation network's state dict.

    Args:
      make: the number of classes -> the model; traced with 1 and 2 classes to find
        the tensors that follow the number.
      tensors: name -> array.
      naming: whose names; None: found out.

    Raises:
      ValueError: the layer of scores is not among the tensors; the model has no such
        naming.
    """
    one, two = make(1), make(2)
    size = (64, 64, one.in_channels)
    here, there = shapes(one, size), shapes(two, size)
    layout = detect(one, here, tensors, naming)
    for a, b in zip(
        entries(one, here, layout), entries(two, there, layout), strict=True
    ):
        for axis, (n, m) in enumerate(zip(a.torch_shape, b.torch_shape, strict=True)):
            for name in a.names:
                found = tensors.get(f"{layout.prefix}{name}")
                if n != m and found is not None and found.ndim == len(a.torch_shape):
                    return Guess(layout.naming, 1 + (found.shape[axis] - n) // (m - n))
    raise ValueError(
        "these weights hold no layer of scores under the names of this encoder and "
        "decoder; are they an encoder's alone, or another decoder's?"
    )
