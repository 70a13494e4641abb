"""Decoders: Features -> a map. One import line per family; lookup is by these names."""

from segjax.models.decoders.fcn import fcn32s
from segjax.models.decoders.unet import unet
from segjax.models.decoders.upernet import upernet

__all__ = ["fcn32s", "unet", "upernet"]
