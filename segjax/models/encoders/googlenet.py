"""GoogLeNet (Szegedy et al. 2015), torchvision's: Inception v1 with batch norm."""

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers, normal_001
from segjax.models.naming import Name
from segjax.ops.pool import adaptive_avg_pool

Widths = tuple[int, int, int, int, int, int]
# 1x1 | 1x1, 3x3 | 1x1, "5x5" | 1x1 after the pooling: Table 1 of the paper.
STAGES: tuple[tuple[Widths, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU."""

    features: int
    kernel_size: int
    layers: Layers
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H / strides, W / strides, features]."""
        x = self.layers.conv_before_norm(
            self.features, self.kernel_size, strides=self.strides, name="conv"
        )(x)
        return self.layers.norm(relu=True, name="bn")(x, train)


class Inception(nn.Module):
    """Four branches side by side.

    The third one has a 3x3 convolution where the paper has 5x5: the network was first
    trained so in TensorFlow, and its weights are everyone's (torchvision issue 906).
    """

    widths: Widths
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, the sum of the branches' last widths]."""

        def conv(x, width, kernel_size, name):
            width = self.widths[width]
            return ConvNorm(width, kernel_size, self.layers, name=name)(x, train)

        pooled = self.layers.max_pool(x, 3, 1, 1)
        branches = [
            conv(x, 0, 1, "branch1"),
            conv(conv(x, 1, 1, "branch2_0"), 2, 3, "branch2_1"),
            conv(conv(x, 3, 1, "branch3_0"), 4, 3, "branch3_1"),
            conv(pooled, 5, 1, "branch4_1"),
        ]
        return jnp.concatenate(branches, 3)


class Auxiliary(nn.Module):
    """A classifier on a middle map, sown as ``logits`` in "auxiliary"."""

    num_classes: int
    layers: Layers
    dropout: float = 0.7

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> None:
        """x[B, H, W, C] -> nothing; sows float32[B, num_classes]."""
        x = ConvNorm(128, 1, self.layers, name="conv")(
            adaptive_avg_pool(x, (4, 4)), train
        )
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # torch's order
        x = nn.relu(self.layers.dense(1024, kernel_init=normal_001, name="fc1")(x))
        x = self.layers.dropout(x, self.dropout, train)
        x = self.layers.dense(self.num_classes, kernel_init=normal_001, name="fc2")(x)
        self.sow(
            "auxiliary",
            "logits",
            x.astype(jnp.promote_types(x.dtype, jnp.float32)),
            # Not a growing tuple: the logits of init are not to stay.
            reduce_fn=lambda before, now: now,
            init_fn=lambda: jnp.zeros(()),
        )


class GoogLeNet(nn.Module):
    """Maps: first convolution, third, and the last of the Inception stages 3, 4, 5.

    The 3x3 poolings round up without padding: n becomes n // 2; the last pooling, 2x2,
    makes ceil(n / 2).

    With ``auxiliary_classes`` (a classifier's), the heads ``aux1`` and ``aux2`` stand
    on 4a and 4d; in training their logits are sown in the collection "auxiliary". The
    paper adds their losses with weight 0.3.

    torchvision's published weights are of a network whose input is scaled to -1 .. 1
    (mean and standard deviation 0.5), not by ImageNet's statistics.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    stem: tuple[int, int, int] = (64, 64, 192)
    stages: tuple[tuple[Widths, ...], ...] = STAGES
    auxiliary_classes: int | None = None
    auxiliary_dropout: float = 0.7
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("torchvision",)
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolDense, dropout=0.2, kernel_init=normal_001, torch={"torchvision": "fc"}
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("fc.*", "aux1.*", "aux2.*")

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; see the class for the maps' sizes."""
        layers = dataclasses.replace(self.layers, kernel_init=normal_001, norm_eps=1e-3)
        inception, (first, second, third) = layers.block(Inception), self.stem
        x = ConvNorm(first, 7, layers, strides=2, name="conv1")(image, train)
        maps = [x]
        x = layers.max_pool(x, 3, 2, ceil_mode=True)
        x = ConvNorm(second, 1, layers, name="conv2")(x, train)
        x = ConvNorm(third, 3, layers, name="conv3")(x, train)
        maps.append(x)
        seen = train or self.is_initializing()
        auxiliary = {"4a": "aux1", "4d": "aux2"} if seen else {}
        for stage, blocks in enumerate(self.stages, start=3):
            x = layers.max_pool(x, 2 if stage == 5 else 3, 2, ceil_mode=True)
            for letter, widths in zip("abcde", blocks, strict=False):
                block = f"{stage}{letter}"
                x = inception(widths=widths, layers=layers, name=f"inception{block}")(
                    x, train
                )
                if self.auxiliary_classes and block in auxiliary:
                    Auxiliary(
                        self.auxiliary_classes,
                        layers,
                        self.auxiliary_dropout,
                        name=auxiliary[block],
                    )(x, train)
            maps.append(x)
        return Features(tuple(maps))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name: ours, but for the numbers within a branch."""
        return ".".join(path).replace("_", ".")


googlenet = partial(GoogLeNet)
