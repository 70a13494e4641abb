"""ResNet (He et al. 2016), the torchvision network: "v1.5", stride in the 3x3.

ResNeXt (Xie et al. 2017) groups the 3x3 convolutions; wide ResNets (Zagoruyko &
Komodakis 2016) double their channels.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name
from segjax.ops.packed import Packed, unpack


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    features: int
    strides: int
    dilation: int
    layers: Layers
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, ceil(H/strides), ceil(W/strides), features]."""
        layers = self.layers
        y = layers.conv_before_norm(
            self.features, 3, strides=self.strides, dilation=self.dilation, name="conv1"
        )(x)
        y = layers.norm(relu=True, name="bn1")(y, train)
        y = layers.conv_before_norm(
            self.features, 3, dilation=self.dilation, name="conv2"
        )(y)
        y = layers.norm(name="bn2")(y, train)
        return nn.relu(y + _shortcut(self, x, y, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and the shortcut.

    The 3x3 has ``groups`` of as many channels as it takes for ``base_width`` channels
    each in the first stage, where ``features`` is 64.
    """

    features: int
    strides: int
    dilation: int
    layers: Layers
    expansion: ClassVar[int] = 4
    groups: ClassVar[int] = 1
    base_width: ClassVar[int] = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, ceil(H/strides), ceil(W/strides), 4 * features]."""
        layers = self.layers
        width = self.features * self.base_width // 64 * self.groups
        y = layers.conv_before_norm(width, 1, name="conv1")(x)
        y = layers.norm(relu=True, name="bn1")(y, train)
        y = layers.conv_before_norm(
            width,
            3,
            strides=self.strides,
            dilation=self.dilation,
            groups=self.groups,
            name="conv2",
        )(y)
        y = layers.norm(relu=True, name="bn2")(y, train)
        y = layers.conv_before_norm(4 * self.features, 1, name="conv3")(y)
        y = layers.norm(name="bn3")(y, train)
        return nn.relu(y + _shortcut(self, x, y, train))


class Bottleneck32x4d(Bottleneck):
    """ResNeXt's block of 32 groups, 4 channels wide in the first stage."""

    groups: ClassVar[int] = 32
    base_width: ClassVar[int] = 4


class Bottleneck32x8d(Bottleneck):
    """ResNeXt's block of 32 groups, 8 channels wide in the first stage."""

    groups: ClassVar[int] = 32
    base_width: ClassVar[int] = 8


class WideBottleneck(Bottleneck):
    """The wide ResNet's block: twice the channels in the 3x3."""

    base_width: ClassVar[int] = 128


def _shortcut(block, x, y, train):
    """The input, projected where its shape differs (within the block's scope)."""
    if x.shape[3] == y.shape[3] and block.strides == 1:
        return x
    x = block.layers.conv_before_norm(
        y.shape[3], 1, strides=block.strides, name="downsample_conv"
    )(x)
    return block.layers.norm(name="downsample_bn")(x, train)


class Stage(nn.Module):
    """Blocks ``block0``, ``block1``, ...; the first one has the stride.

    ``first_dilation`` is that of the first block, ``dilation`` of the others.
    """

    block: type[nn.Module]
    count: int
    features: int
    strides: int
    first_dilation: int
    dilation: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H/strides, W/strides, features * expansion]."""
        block = self.layers.block(self.block)
        for i in range(self.count):
            x = block(
                features=self.features,
                strides=self.strides if i == 0 else 1,
                dilation=self.first_dilation if i == 0 else self.dilation,
                layers=self.layers,
                name=f"block{i}",
            )(x, train)
        return x


class ResNet(nn.Module):
    """The convolutional part of a ResNet: five maps at strides 2, 4, 8, 16, 32.

    ``output_stride`` 16 or 8 trades the last strides for dilation: by ``like`` "smp"
    every convolution of the stage is dilated, else all but the first block's, as in
    torchvision (which follows the grid of the strided network more closely).
    """

    block: type[nn.Module]
    counts: tuple[int, int, int, int]
    layers: Layers = Layers()
    output_stride: int = 32
    like: str = "segjax"
    width: int = 64
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "smp", "timm")
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolDense,
            kernel_init=torch_uniform,
            torch={"torchvision": "fc", "timm": "fc"},
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("fc.*",)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers = self.layers
        x = layers.conv_before_norm(
            self.width, 7, strides=2, pack=layers.packs, name="conv1"
        )(image)
        x = layers.norm(relu=True, name="bn1")(x, train)
        packed, fine = (x, unpack(x)) if isinstance(x, Packed) else (None, x)
        maps = [fine]
        x = layers.max_pool(x, 3, 2, 1)
        reached, dilation = 4, 1
        for i, count in enumerate(self.counts):
            strides, first_dilation = (1 if i == 0 else 2), dilation
            if strides == 2 and reached == self.output_stride:
                strides, dilation = 1, 2 * dilation
                if self.like == "smp":
                    first_dilation = dilation
            reached *= strides
            x = Stage(
                block=self.block,
                count=count,
                features=self.width * 2**i,
                strides=strides,
                first_dilation=first_dilation,
                dilation=dilation,
                layers=layers,
                name=f"layer{i + 1}",
            )(x, train)
            maps.append(x)
        return Features(tuple(maps), packed=packed)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name, from its path in the encoder: the same everywhere."""
        name = ".".join(path)
        for ours, theirs in (
            (".block", "."),
            ("downsample_conv", "downsample.0"),
            ("downsample_bn", "downsample.1"),
        ):
            name = name.replace(ours, theirs)
        return name


resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
resnet152 = partial(ResNet, Bottleneck, (3, 8, 36, 3))
resnext50_32x4d = partial(ResNet, Bottleneck32x4d, (3, 4, 6, 3))
resnext101_32x8d = partial(ResNet, Bottleneck32x8d, (3, 4, 23, 3))
wide_resnet50_2 = partial(ResNet, WideBottleneck, (3, 4, 6, 3))
wide_resnet101_2 = partial(ResNet, WideBottleneck, (3, 4, 23, 3))
