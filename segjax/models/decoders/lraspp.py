"""Lite reduced atrous spatial pyramid pooling, of MobileNetV3 (Howard et al. 2019)."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name, Parts


class LRASPP(nn.Module):
    """The deepest map, weighed by its mean, and the map of stride 8, each scored.

    Torchvision's: the gate sees the mean of the whole map where the paper pools large
    windows. The encoder is dilated to output stride 16 where it can be.
    """

    num_classes: int
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    layers: Layers = Layers()
    inter_channels: int = 128
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("inter_channels",)
    head_kernel: ClassVar[int] = 0
    output_stride: ClassVar = staticmethod(lambda like: 16)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "torchvision": Parts("backbone.", "classifier.", "")
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> scores [B, h, w, num_classes] at stride 8."""
        layers = dataclasses.replace(self.layers, kernel_init=torch_uniform)
        stride = max((s for s in self.strides if s <= 8), default=min(self.strides))
        low, high = features.maps[self.strides.index(stride)], features.maps[-1]
        x = layers.conv_before_norm(self.inter_channels, 1, name="conv")(high)
        x = layers.norm(relu=True, name="norm")(x, train)
        gate = layers.conv(self.inter_channels, 1, use_bias=False, name="gate")(
            jnp.mean(high, (1, 2), keepdims=True)
        )
        x = layers.resize_bilinear(
            x * nn.sigmoid(gate), (low.shape[1], low.shape[2]), align_corners=False
        )
        score = partial(layers.conv, self.num_classes, 1)
        return score(name="low_score")(low) + score(name="high_score")(x)

    TORCH: ClassVar[dict[str, str]] = {
        "conv": "cbr.0",
        "norm": "cbr.1",
        "gate": "scale.1",
        "low_score": "low_classifier",
        "high_score": "high_classifier",
    }

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name below torchvision's ``classifier``."""
        return self.TORCH[path[0]]


lraspp = partial(LRASPP)
