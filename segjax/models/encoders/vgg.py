"""VGG (Simonyan & Zisserman 2015), with and without batch norm, as torchvision's."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.heads import ThreeDense
from segjax.models.layers import Features, Layers, normal_001
from segjax.models.naming import Name


class Stage(nn.Module):
    """``count`` times 3x3 convolution, batch norm where wanted, ReLU."""

    count: int
    features: int
    batch_norm: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> [B, H, W, features]."""
        for i in range(1, self.count + 1):
            # With a bias even before batch norm, as published.
            x = self.layers.conv(self.features, 3, name=f"conv{i}")(x)
            if self.batch_norm:
                x = self.layers.norm(relu=True, name=f"bn{i}")(x, train)
            else:
                x = nn.relu(x)
        return x


class VGG(nn.Module):
    """Five stages, each ended by a 2x2 max pooling that drops an odd last row.

    The maps are those before each pooling (strides 1 to 16), from which a decoder can
    tell where every maximum was, and the last pooled one.
    """

    counts: tuple[int, ...]
    batch_norm: bool = False
    layers: Layers = Layers()
    like: str = "segjax"
    width: int = 64
    strides: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16, 32)
    provides: ClassVar[tuple[str, ...]] = (
        "pooling switches",
        "fully connected layers",
    )
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "smp")
    classifier_head: ClassVar = staticmethod(
        partial(
            ThreeDense,
            size=(7, 7),
            initializers=lambda fan_in: {"kernel_init": normal_001},
            torch=("classifier.0", "classifier.3", "classifier.6"),
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*",)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, H // s, W // s, .]."""
        stage = self.layers.block(Stage)
        x, maps = image, []
        for i, count in enumerate(self.counts):
            x = stage(
                count=count,
                features=self.width * min(2**i, 8),
                batch_norm=self.batch_norm,
                layers=self.layers,
                name=f"stage{i + 1}",
            )(x, train)
            maps.append(x)
            x = self.layers.max_pool(x, 2, 2)
        return Features((*maps, x))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """``features.N``: torchvision numbers convolutions, norms, ReLUs and pools."""
        stage, layer = path
        number, each = int(stage.removeprefix("stage")), 3 if self.batch_norm else 2
        before = sum(each * count + 1 for count in self.counts[: number - 1])
        kind, i = layer[:-1], int(layer[-1])
        return f"features.{before + each * (i - 1) + (kind == 'bn')}"


vgg11 = partial(VGG, (1, 1, 2, 2, 2))
vgg13 = partial(VGG, (2, 2, 2, 2, 2))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
vgg19 = partial(VGG, (2, 2, 4, 4, 4))
vgg11_bn = partial(VGG, (1, 1, 2, 2, 2), True)
vgg13_bn = partial(VGG, (2, 2, 2, 2, 2), True)
vgg16_bn = partial(VGG, (2, 2, 3, 3, 3), True)
vgg19_bn = partial(VGG, (2, 2, 4, 4, 4), True)
