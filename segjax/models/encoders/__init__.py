"""Encoders: image -> Features. One import line per family; lookup is by these names."""

from segjax.models.encoders.alexnet import alexnet
from segjax.models.encoders.googlenet import googlenet
from segjax.models.encoders.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from segjax.models.encoders.segnet_basic import segnet_basic
from segjax.models.encoders.vgg import (
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

__all__ = ["alexnet", "googlenet"]
__all__ += ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
__all__ += ["segnet_basic"]
__all__ += ["vgg11", "vgg13", "vgg16", "vgg19"]
__all__ += ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
