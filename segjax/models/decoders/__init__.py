"""Decoders: Features -> a map. One import line per family; lookup is by these names."""

from segjax.models.decoders.deeplabv3 import deeplabv3
from segjax.models.decoders.deeplabv3plus import deeplabv3plus
from segjax.models.decoders.dpt import dpt
from segjax.models.decoders.fcn import fcn, fcn8s, fcn16s, fcn32s
from segjax.models.decoders.fpn import fpn
from segjax.models.decoders.linknet import linknet
from segjax.models.decoders.lraspp import lraspp
from segjax.models.decoders.manet import manet
from segjax.models.decoders.pan import pan
from segjax.models.decoders.pspnet import pspnet
from segjax.models.decoders.segformer import segformer
from segjax.models.decoders.segnet import segnet, segnet_basic
from segjax.models.decoders.unet import unet
from segjax.models.decoders.unetplusplus import unetplusplus
from segjax.models.decoders.upernet import upernet

__all__ = [
    "deeplabv3",
    "deeplabv3plus",
    "dpt",
    "fcn",
    "fcn32s",
    "fcn16s",
    "fcn8s",
    "fpn",
    "linknet",
    "lraspp",
    "manet",
    "pan",
    "pspnet",
    "segformer",
    "segnet",
    "segnet_basic",
    "unet",
    "unetplusplus",
    "upernet",
]
