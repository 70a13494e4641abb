"""Encoders: image -> Features. One import line per family; lookup is by these names."""

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
from segjax.models.encoders.mit import mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5
from segjax.models.encoders.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from segjax.models.encoders.vit import (
    vit_base,
    vit_base_384,
    vit_large,
    vit_large_384,
    vit_small,
)

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
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mit_b3",
    "mit_b4",
    "mit_b5",
    "vit_small",
    "vit_base",
    "vit_large",
    "vit_base_384",
    "vit_large_384",
]
