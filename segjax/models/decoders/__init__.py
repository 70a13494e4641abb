"""Decoders: Features -> a map. One import line per family; lookup is by these names."""

from segjax.models.decoders.deeplabv3 import deeplabv3
from segjax.models.decoders.deeplabv3plus import deeplabv3plus
from segjax.models.decoders.fcn import fcn32s
from segjax.models.decoders.fpn import fpn
from segjax.models.decoders.linknet import linknet
from segjax.models.decoders.manet import manet
from segjax.models.decoders.pan import pan
from segjax.models.decoders.pspnet import pspnet
from segjax.models.decoders.unet import unet
from segjax.models.decoders.unetplusplus import unetplusplus

__all__ = [
    "deeplabv3",
    "deeplabv3plus",
    "fcn32s",
    "fpn",
    "linknet",
    "manet",
    "pan",
    "pspnet",
    "unet",
    "unetplusplus",
]
