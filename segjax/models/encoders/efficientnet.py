"""EfficientNet (Tan & Le 2019) and EfficientNet-Lite."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers import (
    Features,
    Layers,
    kaiming_normal_fan_out,
    multiple_of_8,
)
from segjax.models.naming import Name
from segjax.models.squeeze import SqueezeExcite

# Kernel size, stride, expansion, channels, blocks: the seven stages of B0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MAPS = (1, 2, 4, 6)  # the stages whose last block is a map, after the stem's


def depthwise_normal(key, shape, dtype=jnp.float32):
    """Normal with variance 2 / (kh * kw), for kernel [kh, kw, 1, C].

    2 / fan_out as for every other convolution, the fan being that of one channel.
    """
    sigma = math.sqrt(2 / (shape[0] * shape[1]))
    return sigma * jax.random.normal(key, shape, dtype)


class Plan(NamedTuple):
    """One block: what it is, and its number within its stage."""

    kernel_size: int
    strides: int
    expansion: int
    features: int
    stage: int
    number: int


class Padding(NamedTuple):
    """How convolutions are padded: TensorFlow's "same" or the same on both sides.

    TensorFlow's puts the odd pixel at the bottom and the right, so it depends on the
    size. SMP computes it once, for the size that the variant was trained on
    (``nominal``; this map's side of it).
    """

    rule: str
    nominal: int = 0

    def __call__(self, size: tuple[int, int], kernel_size: int, strides: int):
        """((top, bottom), (left, right)) for a map of a size."""
        if self.rule == "symmetric" or strides == 1:
            return ((kernel_size // 2, kernel_size // 2),) * 2
        sides = (self.nominal,) * 2 if self.rule == "nominal" else size
        totals = [
            max((-(-n // strides) - 1) * strides + kernel_size - n, 0) for n in sides
        ]
        return tuple((total // 2, total - total // 2) for total in totals)

    def after(self, strides: int) -> "Padding":
        """That of the map behind a strided convolution."""
        return self._replace(nominal=-(-self.nominal // strides))


class Block(nn.Module):
    """MBConv: 1x1 expansion, depthwise convolution, squeeze-excitation, 1x1 projection.

    The squeeze is to a quarter of the block's input (``squeeze`` 0.25), or absent (0).
    """

    plan: Plan
    strides: int
    dilation: int
    padding: Padding
    squeeze: float
    act: Callable[[jax.Array], jax.Array]
    drop_rate: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, ceil(H/strides), ceil(W/strides), features]."""
        layers, plan, act = self.layers, self.plan, self.act
        y, width = x, x.shape[3] * plan.expansion
        if plan.expansion != 1:
            y = layers.conv_before_norm(width, 1, name="expand")(y)
            y = act(layers.norm(name="expand_bn")(y, train))
        size, k = (y.shape[1], y.shape[2]), plan.kernel_size
        padding = None if self.dilation > 1 else self.padding(size, k, self.strides)
        y = layers.conv_before_norm(
            width,
            k,
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=width,
            kernel_init=depthwise_normal,
            name="depthwise",
        )(y)
        y = act(layers.norm(name="depthwise_bn")(y, train))
        if self.squeeze:
            squeezed = max(1, int(x.shape[3] * self.squeeze))
            y = SqueezeExcite(squeezed, act, jax.nn.sigmoid, layers, name="se")(y)
        y = layers.conv_before_norm(plan.features, 1, name="project")(y)
        y = layers.norm(name="project_bn")(y, train)
        if self.strides == 1 and plan.strides == 1 and x.shape[3] == y.shape[3]:
            y = x + layers.drop_path(y, self.drop_rate, train)
        return y


class Head(nn.Module):
    """1x1 convolution to 1280 channels (scaled), mean, dropout, one dense layer."""

    num_classes: int
    layers: Layers
    like: str
    features: int = 1280
    dropout: float = 0.2
    act: Callable[[jax.Array], jax.Array] = jax.nn.silu
    lite: bool = False

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        layers = tuned(self.layers, self.like, self.lite)
        x = layers.conv_before_norm(self.features, 1, name="conv")(features.maps[-1])
        x = self.act(layers.norm(name="norm")(x, train))
        x = layers.dropout(jnp.mean(x, (1, 2)), self.dropout, train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return layers.dense(self.num_classes, kernel_init=init, name="dense")(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Timm's names, or EfficientNet-PyTorch's."""
        timm = {"conv": "conv_head", "norm": "bn2", "dense": "classifier"}
        lukemelas = {"conv": "_conv_head", "norm": "_bn1", "dense": "_fc"}
        return (timm if _timm_names(naming, self.lite) else lukemelas)[path[0]]


def tuned(layers: Layers, like: str, lite: bool) -> Layers:
    """The batch norm of each publisher.

    TensorFlow's has eps 1e-3, timm's port of the PyTorch-trained B0 to B7 and SMP's of
    Lite the default 1e-5. SMP's B0 to B7 average slowly, as TensorFlow does.
    """
    plain = like == "smp" if lite else like == "timm"
    momentum = 0.99 if like == "smp" and not lite else 0.9
    return dataclasses.replace(
        layers,
        norm_eps=1e-5 if plain else 1e-3,
        norm_momentum=momentum,
        kernel_init=kaiming_normal_fan_out,
    )


def _timm_names(naming: str, lite: bool) -> bool:
    """Whether names are timm's; SMP's B0 to B7 are EfficientNet-PyTorch's."""
    return naming == "timm" or (naming == "smp" and lite)


class EfficientNet(nn.Module):
    """Five maps at strides 2, 4, 8, 16, 32: the stem's and those of stages 2, 3, 5, 7.

    ``width`` and ``depth`` scale B0's channels and blocks, ``resolution`` is the size
    (px) that the variant was published with. Lite has ReLU6 for SiLU, no
    squeeze-excitation, and a stem, head, first and last stage that are not scaled.

    By ``like`` the padding is TensorFlow's "same" ("segjax", and "timm" for Lite, where
    the name has the prefix ``tf_``), the same on both sides ("timm" for B0 to B7, "smp"
    for Lite), or "same" as computed for ``resolution`` ("smp" for B0 to B7).
    ``output_stride`` 16 or 8 trades strides for dilation; by "smp" the first block of
    the stage is dilated, too.
    """

    width: float
    depth: float
    resolution: int
    dropout: float = 0.2
    lite: bool = False
    layers: Layers = Layers()
    output_stride: int = 32
    like: str = "segjax"
    drop_path: float = 0.2
    stages: tuple[tuple[int, ...], ...] = STAGES
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("timm", "smp", "efficientnet_pytorch")
    head_names: ClassVar[tuple[str, ...]] = (
        *("conv_head.*", "bn2.*", "classifier.*"),
        *("_conv_head.*", "_bn1.*", "_fc.*"),
    )

    @nn.nowrap
    def classifier_head(self, **fields) -> Head:
        """The published head."""
        return Head(
            features=1280 if self.lite else self._channels(1280),
            dropout=self.dropout,
            act=self._act(),
            lite=self.lite,
            **fields,
        )

    @nn.nowrap
    def _act(self):
        return jax.nn.relu6 if self.lite else jax.nn.silu

    @nn.nowrap
    def _channels(self, channels: int) -> int:
        """Scaled by the variant's width."""
        return multiple_of_8(channels * self.width)

    @nn.nowrap
    def plans(self) -> Iterator[Plan]:
        """Every block in order."""
        for stage, (kernel, strides, expansion, channels, count) in enumerate(
            self.stages
        ):
            fixed = self.lite and stage in (0, len(self.stages) - 1)
            blocks = count if fixed else math.ceil(count * self.depth)
            for number in range(blocks):
                yield Plan(
                    kernel,
                    strides if number == 0 else 1,
                    expansion,
                    self._channels(channels),
                    stage,
                    number,
                )

    @nn.nowrap
    def _map_blocks(self, plans: list[Plan]) -> list[int]:
        """The last block of each stage that is a map.

        SMP takes B0's map at stride 16 after the first of the stage's three blocks, and
        dilates the other two with the next stage.
        """
        taken = [max(i for i, p in enumerate(plans) if p.stage == s) for s in MAPS]
        if self.like == "smp" and not self.lite and self.resolution == 224:
            taken[2] = min(i for i, p in enumerate(plans) if p.stage == MAPS[2])
        return taken

    @nn.nowrap
    def _padding(self) -> Padding:
        if self.like == "smp" and not self.lite:
            return Padding("nominal", self.resolution)
        symmetric = self.like == "smp" if self.lite else self.like == "timm"
        return Padding("symmetric" if symmetric else "same")

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers = tuned(self.layers, self.like, self.lite)
        act, padding = self._act(), self._padding()
        x = layers.conv_before_norm(
            32 if self.lite else self._channels(32),
            3,
            strides=2,
            padding=padding((image.shape[1], image.shape[2]), 3, 2),
            name="stem",
        )(image)
        x = act(layers.norm(name="stem_bn")(x, train))
        maps, reached, dilation, padding = [x], 2, 1, padding.after(2)
        plans = list(self.plans())
        taken = self._map_blocks(plans)
        block = layers.block(Block)
        for i, plan in enumerate(plans):
            strides, now = plan.strides, dilation
            if strides == 2 and reached == self.output_stride:
                strides, dilation = 1, 2 * dilation
                now = dilation if self.like == "smp" else now
            if self.like == "smp" and plan.stage == 4 and i > taken[2]:
                now *= 1 if self.output_stride == 32 else 2
            reached *= strides
            x = block(
                plan=plan,
                strides=strides,
                dilation=now,
                padding=padding,
                squeeze=0.0 if self.lite else 0.25,
                act=act,
                drop_rate=self.drop_path * i / len(plans),
                layers=layers,
                name=f"block{i}",
            )(x, train)
            padding = padding.after(strides)
            if i in taken:
                maps.append(x)
        return Features(tuple(maps))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name, from its path in the encoder."""
        timm = _timm_names(naming, self.lite)
        if path[0] in ("stem", "stem_bn"):
            names = ("conv_stem", "bn1") if timm else ("_conv_stem", "_bn0")
            return names[path[0] == "stem_bn"]
        index = int(path[0].removeprefix("block"))
        layer = ".".join(path[1:])
        if not timm:
            return f"_blocks.{index}.{_LUKEMELAS[layer]}"
        plan = list(self.plans())[index]
        names = _TIMM if plan.expansion != 1 else _TIMM_FIRST
        return f"blocks.{plan.stage}.{plan.number}.{names[layer]}"

    @nn.nowrap
    def torch_buffers(self, naming: str) -> dict[str, np.ndarray]:
        """SMP keeps the classifier's last convolution and norm without using them."""
        if naming != "smp":
            return {}
        conv, norm = ("conv_head", "bn2") if self.lite else ("_conv_head", "_bn1")
        width = 1280 if self.lite else self._channels(1280)
        deepest = self._channels(self.stages[-1][3])
        found: dict[str, np.ndarray] = {
            f"{conv}.weight": np.zeros((width, deepest, 1, 1), np.float32),
            f"{norm}.num_batches_tracked": np.zeros((), np.int64),
        }
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            value = float(leaf in ("weight", "running_var"))
            found[f"{norm}.{leaf}"] = np.full(width, value, np.float32)
        return found


_LUKEMELAS = {
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "se.reduce": "_se_reduce",
    "se.expand": "_se_expand",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
_TIMM = {
    "expand": "conv_pw",
    "expand_bn": "bn1",
    "depthwise": "conv_dw",
    "depthwise_bn": "bn2",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "project": "conv_pwl",
    "project_bn": "bn3",
}
# timm's name for a block without expansion: a depthwise-separable convolution.
_TIMM_FIRST = {
    **_TIMM,
    "depthwise_bn": "bn1",
    "project": "conv_pw",
    "project_bn": "bn2",
}

efficientnet_b0 = partial(EfficientNet, 1.0, 1.0, 224, 0.2)
efficientnet_b1 = partial(EfficientNet, 1.0, 1.1, 240, 0.2)
efficientnet_b2 = partial(EfficientNet, 1.1, 1.2, 260, 0.3)
efficientnet_b3 = partial(EfficientNet, 1.2, 1.4, 300, 0.3)
efficientnet_b4 = partial(EfficientNet, 1.4, 1.8, 380, 0.4)
efficientnet_b5 = partial(EfficientNet, 1.6, 2.2, 456, 0.4)
efficientnet_b6 = partial(EfficientNet, 1.8, 2.6, 528, 0.5)
efficientnet_b7 = partial(EfficientNet, 2.0, 3.1, 600, 0.5)
tf_efficientnet_lite0 = partial(EfficientNet, 1.0, 1.0, 224, 0.2, True)
tf_efficientnet_lite1 = partial(EfficientNet, 1.0, 1.1, 240, 0.2, True)
tf_efficientnet_lite2 = partial(EfficientNet, 1.1, 1.2, 260, 0.3, True)
tf_efficientnet_lite3 = partial(EfficientNet, 1.2, 1.4, 280, 0.3, True)
tf_efficientnet_lite4 = partial(EfficientNet, 1.4, 1.8, 300, 0.3, True)
