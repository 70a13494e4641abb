"""Encoders: image -> Features. One import line per family; lookup is by these names."""

from segjax.models.encoders.alexnet import alexnet
from segjax.models.encoders.convnext import (
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
)
from segjax.models.encoders.densenet import densenet121, densenet169, densenet201
from segjax.models.encoders.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    tf_efficientnet_lite0,
    tf_efficientnet_lite1,
    tf_efficientnet_lite2,
    tf_efficientnet_lite3,
    tf_efficientnet_lite4,
)
from segjax.models.encoders.googlenet import googlenet
from segjax.models.encoders.mobilenet import (
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from segjax.models.encoders.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from segjax.models.encoders.segnet_basic import segnet_basic
from segjax.models.encoders.swin import swin_b, swin_s, swin_t
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

__all__ = [
    "alexnet",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "densenet121",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "tf_efficientnet_lite3",
    "tf_efficientnet_lite4",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "segnet_basic",
    "swin_t",
    "swin_s",
    "swin_b",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
]
