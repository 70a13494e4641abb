"""Decoders: Features -> a map. One import line per family; lookup is by these names."""

from segjax.models.decoders.dpt import dpt
from segjax.models.decoders.fcn import fcn32s
from segjax.models.decoders.segformer import segformer
from segjax.models.decoders.unet import unet

__all__ = ["fcn32s", "unet"]
__all__ += ["segformer", "dpt"]
