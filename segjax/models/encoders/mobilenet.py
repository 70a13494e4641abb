"""MobileNetV2 (Sandler et al. 2018) and V3 (Howard et al. 2019), as in torchvision."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers, multiple_of_8, normal_001
from segjax.models.naming import Name
from segjax.models.squeeze import SqueezeExcite

Activation = Callable[[jax.Array], jax.Array]
relu, relu6, hard_swish = jax.nn.relu, jax.nn.relu6, jax.nn.hard_swish


class Block(NamedTuple):
    """One inverted residual: kernel size, widths, squeeze, activation, stride."""

    kernel_size: int
    expanded: int
    features: int
    squeeze: bool
    activation: Activation
    strides: int = 1


class InvertedResidual(nn.Module):
    """1x1 convolution to ``expanded`` channels, depthwise one, [squeeze], 1x1 back.

    Without an activation at the end; the input is added where it has the same shape.
    """

    block: Block
    strides: int
    dilation: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, ceil(H/strides), ceil(W/strides), block.features]."""
        layers, block, width = self.layers, self.block, self.block.expanded
        y = x
        if width != x.shape[3]:
            y = layers.conv_before_norm(width, 1, name="expand_conv")(y)
            y = block.activation(layers.norm(name="expand_bn")(y, train))
        y = layers.conv_before_norm(
            width,
            block.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            groups=width,
            name="depthwise_conv",
        )(y)
        y = block.activation(layers.norm(name="depthwise_bn")(y, train))
        if block.squeeze:
            squeezed = multiple_of_8(width // 4)
            y = SqueezeExcite(
                squeezed, relu, jax.nn.hard_sigmoid, layers, name="squeeze"
            )(y)
        y = layers.conv_before_norm(block.features, 1, name="project_conv")(y)
        y = layers.norm(name="project_bn")(y, train)
        same = block.strides == 1 and x.shape[3] == block.features
        return x + y if same else y


class MobileNet(nn.Module):
    """What V2 and V3 share: a strided convolution, blocks, and a 1x1 convolution.

    ``output_stride`` 16 or 8 trades the last strides for dilation; every convolution
    of the stage is dilated, by torchvision (``dilated=True``) as by SMP.
    """

    blocks: tuple[Block, ...]
    width: int
    last_width: int
    layers: Layers = Layers()
    output_stride: int = 32
    like: str = "segjax"
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    activation: ClassVar[Activation]
    norm: ClassVar[Mapping[str, float]] = {}
    # Which block of a stage gives the stage's map.
    tap: ClassVar[int]
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*",)
    # Torchvision's segmentation networks take what is below this alone.
    torch_root: ClassVar[str] = "features."
    # A block's layers in torch; whether its last convolution and norm are no pair.
    sequence: ClassVar[str]
    flat_end: ClassVar[bool] = False

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers = dataclasses.replace(self.layers, **self.norm)
        x = layers.conv_before_norm(self.width, 3, strides=2, name="first_conv")(image)
        x = self.activation(layers.norm(name="first_bn")(x, train))
        stages, reached, dilation = [[x]], 2, 1
        block = layers.block(InvertedResidual)
        for i, one in enumerate(self.blocks):
            strides = one.strides
            if strides == 2:
                stages.append([])
                if reached == self.output_stride:
                    strides, dilation = 1, 2 * dilation
            reached *= strides
            x = block(one, strides, dilation, layers, name=f"block{i}")(x, train)
            stages[-1].append(x)
        x = layers.conv_before_norm(self.last_width, 1, name="last_conv")(x)
        x = self.activation(layers.norm(name="last_bn")(x, train))
        return Features((*(stage[self.tap] for stage in stages[:-1]), x))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name: torchvision numbers blocks, and what a block has."""
        first, *rest = path
        if not first.startswith("block"):
            place, kind = first.split("_")
            index = 0 if place == "first" else len(self.blocks) + 1
            return f"features.{index}.{_PAIR[kind]}"
        index = int(first.removeprefix("block"))
        before = self.blocks[index - 1].features if index else self.width
        places = ["expand", "depthwise", "squeeze", "project"]
        if self.blocks[index].expanded == before:
            places.remove("expand")
        if not self.blocks[index].squeeze:
            places.remove("squeeze")
        place, _, kind = rest[0].partition("_")
        number = places.index(place)
        prefix = f"features.{index + 1}.{self.sequence}"
        if place == "squeeze":
            return f"{prefix}.{number}.{_SQUEEZE[rest[1]]}"
        if place == "project" and self.flat_end:
            return f"{prefix}.{number + int(_PAIR[kind])}"
        return f"{prefix}.{number}.{_PAIR[kind]}"


_PAIR = {"conv": "0", "bn": "1"}
_SQUEEZE = {"reduce": "fc1", "expand": "fc2"}


class MobileNetV2(MobileNet):
    """MobileNetV2; a stage's map is its last block's, as in SMP."""

    activation: ClassVar[Activation] = staticmethod(relu6)
    tap: ClassVar[int] = -1
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "smp")
    sequence: ClassVar[str] = "conv"
    flat_end: ClassVar[bool] = True
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolDense,
            dropout=0.2,
            kernel_init=normal_001,
            torch={"torchvision": "classifier.1"},
        )
    )


class V3Head(nn.Module):
    """Mean over the pixels, a hidden layer with hard swish, dropout, scores."""

    num_classes: int
    hidden: int
    layers: Layers

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        dense = partial(self.layers.dense, kernel_init=normal_001)
        x = jnp.mean(features.maps[-1], (1, 2))
        x = hard_swish(dense(self.hidden, name="hidden")(x))
        x = self.layers.dropout(x, 0.2, train)
        return dense(self.num_classes, name="score")(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The layers' numbers in torchvision's sequence."""
        return {"hidden": "classifier.0", "score": "classifier.3"}[path[0]]


class MobileNetV3(MobileNet):
    """MobileNetV3; a stage's map is its first block's, as in torchvision's networks."""

    head_width: int = 1280
    activation: ClassVar[Activation] = staticmethod(hard_swish)
    norm: ClassVar[Mapping[str, float]] = {"norm_eps": 1e-3, "norm_momentum": 0.99}
    tap: ClassVar[int] = 0
    # Torchvision's auxiliary heads stand on the map of stride 8.
    auxiliary_map: ClassVar[int] = 2
    namings: ClassVar[tuple[str, ...]] = ("torchvision",)
    sequence: ClassVar[str] = "block"

    @nn.nowrap
    def classifier_head(self, num_classes: int, layers: Layers, like: str) -> V3Head:
        """The published head, whose hidden layer's width depends on the variant."""
        return V3Head(num_classes, self.head_width, layers)


def _v2_blocks() -> tuple[Block, ...]:
    """Table 2: expansion, width, number of blocks and first stride of each row."""
    blocks, width = [], 32
    for expansion, features, count, strides in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(count):
            stride = strides if i == 0 else 1
            blocks.append(Block(3, expansion * width, features, False, relu6, stride))
            width = features
    return tuple(blocks)


# Tables 1 and 2 of the paper.
V3_LARGE = (
    Block(3, 16, 16, False, relu),
    Block(3, 64, 24, False, relu, 2),
    Block(3, 72, 24, False, relu),
    Block(5, 72, 40, True, relu, 2),
    Block(5, 120, 40, True, relu),
    Block(5, 120, 40, True, relu),
    Block(3, 240, 80, False, hard_swish, 2),
    Block(3, 200, 80, False, hard_swish),
    Block(3, 184, 80, False, hard_swish),
    Block(3, 184, 80, False, hard_swish),
    Block(3, 480, 112, True, hard_swish),
    Block(3, 672, 112, True, hard_swish),
    Block(5, 672, 160, True, hard_swish, 2),
    Block(5, 960, 160, True, hard_swish),
    Block(5, 960, 160, True, hard_swish),
)
V3_SMALL = (
    Block(3, 16, 16, True, relu, 2),
    Block(3, 72, 24, False, relu, 2),
    Block(3, 88, 24, False, relu),
    Block(5, 96, 40, True, hard_swish, 2),
    Block(5, 240, 40, True, hard_swish),
    Block(5, 240, 40, True, hard_swish),
    Block(5, 120, 48, True, hard_swish),
    Block(5, 144, 48, True, hard_swish),
    Block(5, 288, 96, True, hard_swish, 2),
    Block(5, 576, 96, True, hard_swish),
    Block(5, 576, 96, True, hard_swish),
)

mobilenet_v2 = partial(MobileNetV2, _v2_blocks(), 32, 1280)
mobilenet_v3_large = partial(MobileNetV3, V3_LARGE, 16, 960)
mobilenet_v3_small = partial(MobileNetV3, V3_SMALL, 16, 576, head_width=1024)
