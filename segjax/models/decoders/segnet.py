"""SegNet and SegNet-Basic (Badrinarayanan, Kendall & Cipolla 2017, PAMI)."""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    add: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, before: jax.Array) -> jax.Array:
        """x[B, h, w, C], before[B, H, W, C] its pooling -> [B, H, W, widths[-1]].

        ``add``: the encoder's map, which must have that width, to the result.
        """
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
        return x + before if self.add else x


def doubling(key, shape: tuple[int, int, int, int], dtype=jnp.float32) -> jax.Array:
    """Initial kernel[k, k, C, C] of 2x bilinear upsampling, each channel by itself."""
    k = shape[0]
    taps = jnp.maximum(0, 1 - jnp.abs(jnp.arange(k) - (k - 1) / 2) / 2)
    channels = jnp.eye(shape[2], shape[3])[None, None]
    return ((taps[:, None] * taps[None, :])[:, :, None, None] * channels).astype(dtype)


class Deconvolution(nn.Module):
    """Twice the size by a learned 8x8 kernel that starts as bilinear interpolation."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, before: jax.Array) -> jax.Array:
        """x[B, h, w, C] -> [B, H, W, C], as large as before[B, H, W, C]."""
        x = self.layers.conv_transpose(
            x.shape[3],
            8,
            2,
            padding=3,
            use_bias=False,
            kernel_init=doubling,
            name="double",
        )(x)
        size = before.shape[1], before.shape[2]
        return self.layers.resize_bilinear(x, size, align_corners=False)


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
        for i in reversed(range(len(befores))):
            x = self._stage(i, widths)(x, train, befores[i])
        return x

    @nn.nowrap
    def _stage(self, i: int, widths: list[int], add: bool = False) -> Any:
        """The stage that mirrors the encoder's stage i."""
        convolutions, last = self._mirror(i, widths)
        return self.layers.block(Stage)(
            widths=convolutions,
            last=last,
            kernel_size=self.kernel_size,
            relu=self.relu,
            layers=self.layers,
            add=add,
            name=f"stage{i + 1}",
        )

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
    """A 7x7 convolution and a norm after each unpooling, without ReLU; a 1x1 head.

    ``upsampling`` makes it a variant of the paper's Table 1: "unpool" is SegNet-Basic;
    "unpool_add" SegNet-Basic-EncoderAddition, which adds the encoder's map to what
    each stage gives; "deconvolution" FCN-Basic-NoAddition-NoDimReduction, which learns
    to upsample and has nothing else. (Bilinear-Interpolation is the decoder fcn32s.)
    """

    upsampling: str = "unpool"
    options: ClassVar[tuple[str, ...]] = ("upsampling",)
    kernel_size: ClassVar[int] = 7
    relu: ClassVar[bool] = False
    head_kernel: ClassVar[int] = 1

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, *size, C of the finest map]."""
        known = ("unpool", "unpool_add", "deconvolution")
        if self.upsampling not in known:
            raise ValueError(
                f"upsampling={self.upsampling!r} is not one of {', '.join(known)}"
            )
        *befores, x = features.maps
        widths = [before.shape[3] for before in befores]
        for i in reversed(range(len(befores))):
            name = f"stage{i + 1}"
            if self.upsampling == "deconvolution":
                block = self.layers.block(Deconvolution)
                stage = block(layers=self.layers, name=name)
            else:
                stage = self._stage(i, widths, self.upsampling == "unpool_add")
            x = stage(x, train, befores[i])
        return x

    @nn.nowrap
    def _mirror(self, i: int, widths: list[int]) -> tuple[tuple[int, ...], int]:
        """One convolution, in the finest stage, too."""
        return (widths[max(i - 1, 0)],), 1


segnet = partial(SegNet)
segnet_basic = partial(SegNetBasic)
