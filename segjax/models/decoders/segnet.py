"""SegNet and SegNet-Basic (Badrinarayanan, Kendall & Cipolla 2017, PAMI)."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax

from segjax.models.layers import Features, Layers, kaiming_normal_fan_in
from segjax.models.naming import Name, Parts
from segjax.ops.pool import max_unpool


class Stage(nn.Module):
    """Unpool to where the encoder's maxima were, then convolutions and norms.

    They are numbered downwards, as the encoder's that they mirror.
    """

    widths: tuple[int, ...]
    last: int
    kernel_size: int
    relu: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, before: jax.Array) -> jax.Array:
        """x[B, h, w, C], before[B, H, W, C] its pooling -> [B, H, W, widths[-1]]."""
        x = max_unpool(x, before)
        for number, width in enumerate(self.widths):
            i = self.last - number
            x = self.layers.conv_before_norm(
                width,
                self.kernel_size,
                kernel_init=kaiming_normal_fan_in,
                name=f"conv{i}",
            )(x)
            x = self.layers.norm(relu=self.relu, name=f"bn{i}")(x, train)
        return x


class SegNet(nn.Module):
    """The encoder backwards: a stage per pooling, with as many 3x3 convolutions.

    ``counts`` are the encoder's convolutions per stage; the last convolution of a
    stage leads to the width of the next finer one. The mirror of the very first is the
    head, which scores. As in the paper there are no biases before batch norm.
    """

    layers: Layers = Layers()
    counts: tuple[int, ...] = (2, 2, 3, 3, 3)
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = "pooling switches"
    kernel_size: ClassVar[int] = 3
    relu: ClassVar[bool] = True
    head_kernel: ClassVar[int] = 3
    head_init: ClassVar = staticmethod(kaiming_normal_fan_in)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, *size, C of the finest map]."""
        *befores, x = features.maps
        widths = [before.shape[3] for before in befores]
        stage = self.layers.block(Stage)
        for i in reversed(range(len(befores))):
            convolutions, last = self._mirror(i, widths)
            x = stage(
                widths=convolutions,
                last=last,
                kernel_size=self.kernel_size,
                relu=self.relu,
                layers=self.layers,
                name=f"stage{i + 1}",
            )(x, train, befores[i])
        return x

    @nn.nowrap
    def _mirror(self, i: int, widths: list[int]) -> tuple[tuple[int, ...], int]:
        """Widths of stage i's convolutions, and the number they count down from."""
        within = (widths[i],) * (self.counts[i] - 1)
        return (*within, widths[i - 1]) if i else within, self.counts[i]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Nobody's: our own path."""
        return ".".join(path)


class SegNetBasic(SegNet):
    """A 7x7 convolution and a norm after each unpooling, without ReLU; a 1x1 head."""

    kernel_size: ClassVar[int] = 7
    relu: ClassVar[bool] = False
    head_kernel: ClassVar[int] = 1

    @nn.nowrap
    def _mirror(self, i: int, widths: list[int]) -> tuple[tuple[int, ...], int]:
        """One convolution, in the finest stage, too."""
        return (widths[max(i - 1, 0)],), 1


segnet = partial(SegNet)
segnet_basic = partial(SegNetBasic)
