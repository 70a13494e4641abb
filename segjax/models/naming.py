"""How a part of a network says which PyTorch tensors its parameters are.

Every encoder, decoder and head has ``torch_name(path, naming)``: the name of the torch
module for a module's path (its ``weight``, ``bias`` and running statistics follow from
the parameter), or the whole name of the tensor for a parameter with a name of its own
(``path`` then ends in it). ``naming`` is one of :data:`NAMINGS`; None means that this
naming has no such tensor. ``torch_renames``, if there are any, lead from names of older
releases, which files still have, to those.
"""

from typing import NamedTuple

NAMINGS = ("smp", "torchvision", "timm", "transformers", "efficientnet_pytorch")


class Tensors(NamedTuple):
    """Several torch modules (or tensors) that are one parameter here, or one reshaped.

    They are joined along torch's first axis: query, key and value as one product.
    ``shape`` is that of the torch tensor where it is not ours with the axes moved.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] | None = None


Name = str | Tensors | None


class Parts(NamedTuple):
    """Where a publisher's segmentation network keeps its parts: prefixes with the dot.

    ``head`` and ``auxiliary`` are names of modules; the decoders that score themselves
    have no head.
    """

    encoder: str = "encoder."
    decoder: str = "decoder."
    head: str = "segmentation_head.0"
    auxiliary: str = "auxiliary."
