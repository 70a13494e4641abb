"""Encoders: image -> Features. One import line per family; lookup is by these names."""

from segjax.models.encoders.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
