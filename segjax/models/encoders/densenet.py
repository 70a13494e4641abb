"""DenseNet (Huang et al. 2017), the torchvision network."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.heads import PoolDense
from segjax.models.layers import (
    Features,
    Layers,
    kaiming_normal_fan_in,
    torch_uniform,
)
from segjax.models.naming import Name
from segjax.ops.pool import avg_pool


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution: the new channels."""

    growth: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, growth]."""
        layers = self.layers
        x = layers.norm(relu=True, name="norm1")(x, train)
        x = layers.conv_before_norm(4 * self.growth, 1, name="conv1")(x)
        x = layers.norm(relu=True, name="norm2")(x, train)
        return layers.conv_before_norm(self.growth, 3, name="conv2")(x)


class DenseBlock(nn.Module):
    """Layers ``layer0``, ``layer1``, ...: each sees the channels of all before it."""

    count: int
    growth: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, C + count * growth]."""
        layer = self.layers.block(DenseLayer)
        for i in range(self.count):
            new = layer(self.growth, self.layers, name=f"layer{i}")(x, train)
            x = jnp.concatenate([x, new], 3)
        return x


class DenseNet(nn.Module):
    """The convolutional part of a DenseNet: five maps at strides 2, 4, 8, 16, 32.

    As in segmentation_models_pytorch, a map is taken after the norm and the ReLU that
    begin the transition to the next block, before its convolution halves the channels
    and its pooling the size. The deepest map is normalised but has no ReLU, which is
    the classifier's. The transitions' pooling leaves out a last odd row and column.
    """

    counts: tuple[int, ...]
    layers: Layers = Layers()
    like: str = "segjax"
    growth: int = 32
    width: int = 64
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "smp", "timm")
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolDense,
            activation=nn.relu,
            kernel_init=torch_uniform,
            torch={"torchvision": "classifier", "timm": "classifier"},
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*",)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; sizes halve by ceil twice, then by floor."""
        layers = dataclasses.replace(self.layers, kernel_init=kaiming_normal_fan_in)
        x = layers.conv_before_norm(self.width, 7, strides=2, name="conv0")(image)
        x = layers.norm(relu=True, name="norm0")(x, train)
        maps = [x]
        x = layers.max_pool(x, 3, 2, 1)
        last = len(self.counts)
        for i, count in enumerate(self.counts, 1):
            x = DenseBlock(count, self.growth, layers, name=f"block{i}")(x, train)
            name = "norm5" if i == last else f"transition{i}_norm"
            x = layers.norm(relu=i < last, name=name)(x, train)
            maps.append(x)
            if i < last:
                width = x.shape[3] // 2
                x = layers.conv_before_norm(width, 1, name=f"transition{i}_conv")(x)
                x = avg_pool(x, 2)
        return Features(tuple(maps))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name, from its path in the encoder: the same everywhere."""
        first, *rest = path
        if first.startswith("block"):
            layer = int(rest[0].removeprefix("layer")) + 1
            first, rest = f"dense{first}", [f"denselayer{layer}", *rest[1:]]
        return ".".join(("features", first.replace("_", "."), *rest))


densenet121 = partial(DenseNet, (6, 12, 24, 16))
densenet169 = partial(DenseNet, (6, 12, 32, 32))
densenet201 = partial(DenseNet, (6, 12, 48, 32))
