"""Encoders: image -> Features. One import line per family; lookup is by these names."""

from segjax.models.encoders.convnext import (
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
)
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
from segjax.models.encoders.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from segjax.models.encoders.swin import swin_b, swin_s, swin_t

__all__ = [
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
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "swin_b",
    "swin_s",
    "swin_t",
]
