"""Decoders: Features -> a map. One import line per family; lookup is by these names."""

from segjax.models.decoders.fcn import fcn, fcn8s, fcn16s, fcn32s
from segjax.models.decoders.lraspp import lraspp
from segjax.models.decoders.segnet import segnet, segnet_basic
from segjax.models.decoders.unet import unet

__all__ = [
    "fcn",
    "fcn32s",
    "fcn16s",
    "fcn8s",
    "lraspp",
    "segnet",
    "segnet_basic",
    "unet",
]
