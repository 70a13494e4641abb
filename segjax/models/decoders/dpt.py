"""DPT: a vision transformer's tokens made into maps (Ranftl et al. 2021)."""

import dataclasses
import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers import (
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts
from segjax.ops.resize import resize_bilinear

READOUTS = ("cat", "add", "ignore")

transposed_uniform = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
"""What torch gives a transposed convolution that nobody initialises."""


class Reassemble(nn.Module):
    """Tokens into a map: class token into patches, then ``scale`` times their grid."""

    channels: int
    features: int
    scale: float
    readout: str
    layers: Layers

    @nn.compact
    def __call__(self, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """tokens[B, 1 + h * w, C], grid (h, w) -> [B, scale * h, ., features]."""
        layers, scale, (b, _, channels) = self.layers, self.scale, tokens.shape
        token, x = tokens[:, :1], tokens[:, 1:]
        if self.readout == "add":
            x = x + token
        if self.readout == "cat":
            x = jnp.concatenate([x, jnp.broadcast_to(token, x.shape)], 2)
            x = layers.dense(channels, kernel_init=xavier_uniform, name="readout")(x)
            x = jax.nn.gelu(x, approximate=False)
        x = x.reshape(b, *grid, channels)
        x = layers.conv(self.channels, 1, name="project")(x)
        if scale > 1:
            x = layers.conv_transpose(
                self.channels,
                int(scale),
                int(scale),
                kernel_init=transposed_uniform,
                name="enlarge",
            )(x)
        elif scale < 1:
            x = layers.conv(self.channels, 3, strides=int(1 / scale), name="reduce")(x)
        return layers.conv(self.features, 3, use_bias=False, name="conv")(x)


class Residual(nn.Module):
    """Twice ReLU, convolution and norm, added to the input."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, channels = self.layers, x.shape[3]
        y = layers.conv_before_norm(channels, name="conv1")(nn.relu(x))
        y = layers.norm(relu=True, name="bn1")(y, train)
        y = layers.conv_before_norm(channels, name="conv2")(y)
        return x + layers.norm(name="bn2")(y, train)


class Fusion(nn.Module):
    """Add a level to the path of the deeper ones, refine, and double the size.

    The deepest level has no path yet; it is refined twice if ``both``.
    """

    both: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path: jax.Array | None) -> jax.Array:
        """Maps x and path[B, H, W, C] -> [B, 2H, 2W, C]."""
        layers = self.layers
        if path is not None or self.both:
            x = Residual(layers, name="residual1")(x, train)
        if path is not None:
            x = x + path
        x = Residual(layers, name="residual2")(x, train)
        # The references project after resizing. The weights of resizing add up to one,
        # so both orders give the same, this one at a quarter of the cost.
        x = layers.conv(x.shape[3], 1, name="project")(x)
        size = (2 * x.shape[1], 2 * x.shape[2])
        return resize_bilinear(x, size, align_corners=True)


class DPT(nn.Module):
    """Tokens of four depths as maps at strides 4 to 32, fused from the deepest up.

    The image is padded to multiples of 32, so that every level is twice the next one.
    ``decoder_readout`` says what becomes of the class token: joined to every patch and
    projected ("cat"), added ("add"), or left out ("ignore"). By ``like`` "smp" the
    deepest level is refined twice, else once as in the paper's code. All scores are at
    stride 2 and resized with align_corners, again as there.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (4, 8, 16, 32)
    num_classes: int = 1
    decoder_intermediate_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    decoder_fusion_channels: int = 256
    decoder_readout: str = "cat"
    needs: ClassVar[str] = "tokens"
    any_size: ClassVar[bool] = False
    align_corners: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = (
        "decoder_intermediate_channels",
        "decoder_fusion_channels",
        "decoder_readout",
    )
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "smp": Parts("encoder.", "", "segmentation_head.head.4"),
        "transformers": Parts("dpt.", "", "head.head.4"),
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, H/2, W/2, fusion_channels]."""
        self._check()
        layers, width = self.layers, self.decoder_fusion_channels
        layers = dataclasses.replace(layers, kernel_init=kaiming_uniform_fan_in)
        _, rows, columns, _ = features.maps[self.strides.index(16)].shape
        levels = []
        for i, tokens in enumerate(features.tokens):
            levels.append(
                Reassemble(
                    channels=self.decoder_intermediate_channels[i],
                    features=width,
                    scale=16 / self.strides[i],
                    readout=self.decoder_readout,
                    layers=layers,
                    name=f"reassemble{i}",
                )(tokens, (rows, columns))
            )
        fusion = partial(layers.block(Fusion), both=self.like == "smp", layers=layers)
        x = fusion(name="fusion0")(levels.pop(), train, None)
        for i, level in enumerate(reversed(levels), 1):
            x = fusion(name=f"fusion{i}")(level, train, x)
        x = layers.conv_before_norm(width, kernel_init=xavier_uniform, name="conv")(x)
        x = layers.norm(relu=True, name="norm")(x, train)
        return layers.dropout(x, 0.1, train)

    @nn.nowrap
    def _check(self) -> None:
        """Options that cannot be."""
        if self.decoder_readout not in READOUTS:
            raise ValueError(
                f"decoder_readout is {self.decoder_readout!r}; it must be one of "
                + ", ".join(READOUTS)
            )
        if len(self.decoder_intermediate_channels) != 4:
            raise ValueError(
                "decoder_intermediate_channels has "
                f"{len(self.decoder_intermediate_channels)} numbers; give 4, one for "
                "each depth, finest first"
            )

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The whole name: the layers before the scores are the publishers' heads'."""
        name = ".".join(path)
        numbers = re.findall(r"\d", name)
        return TORCH[naming][re.sub(r"\d", "", name)].format(*numbers)

    @nn.nowrap
    def torch_buffers(self, naming: str) -> dict[str, np.ndarray]:
        """Transformers' idle layers: the deepest's first residual, an auxiliary head.

        That head serves training there; here it is another one (``auxiliary``).
        """
        if naming != "transformers":
            return {}
        found, width = {}, self.decoder_fusion_channels
        idle = "neck.fusion_stage.layers.0.residual_layer1"
        for i in (1, 2):
            found |= self._idle_conv(f"{idle}.convolution{i}", f"{idle}.batch_norm{i}")
        found |= self._idle_conv("auxiliary_head.head.0", "auxiliary_head.head.1")
        found["auxiliary_head.head.4.weight"] = np.zeros(
            (self.num_classes, width, 1, 1)
        )
        found["auxiliary_head.head.4.bias"] = np.zeros(self.num_classes)
        return found

    @nn.nowrap
    def _idle_conv(self, conv: str, norm: str) -> dict[str, np.ndarray]:
        """A 3x3 convolution of zeros and its norm, if there is one."""
        width = self.decoder_fusion_channels
        zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
        kernel = {f"{conv}.weight": np.zeros((width, width, 3, 3), np.float32)}
        if self.layers.norm_kind != "batch":
            return {**kernel, f"{conv}.bias": zeros}
        return {
            **kernel,
            f"{norm}.weight": ones,
            f"{norm}.bias": zeros,
            f"{norm}.running_mean": zeros,
            f"{norm}.running_var": ones,
            f"{norm}.num_batches_tracked": np.zeros((), np.int64),
        }


# Names without their numbers, which fill the braces in order.
TORCH = {
    "smp": {
        "reassemble.readout": "decoder.projection_blocks.{}.project.0",
        "reassemble.project": "decoder.reassemble_blocks.{}.project_to_out_channel",
        "reassemble.enlarge": "decoder.reassemble_blocks.{}.upsample",
        "reassemble.reduce": "decoder.reassemble_blocks.{}.upsample",
        "reassemble.conv": "decoder.reassemble_blocks.{}.project_to_feature_dim",
        "fusion.residual.conv": (
            "decoder.fusion_blocks.{}.residual_conv_block{}.conv_{}"
        ),
        "fusion.residual.bn": (
            "decoder.fusion_blocks.{}.residual_conv_block{}.batch_norm_{}"
        ),
        "fusion.project": "decoder.fusion_blocks.{}.project",
        "conv": "segmentation_head.head.0",
        "norm": "segmentation_head.head.1",
    },
    "transformers": {
        "reassemble.readout": "neck.reassemble_stage.readout_projects.{}.0",
        "reassemble.project": "neck.reassemble_stage.layers.{}.projection",
        "reassemble.enlarge": "neck.reassemble_stage.layers.{}.resize",
        "reassemble.reduce": "neck.reassemble_stage.layers.{}.resize",
        "reassemble.conv": "neck.convs.{}",
        "fusion.residual.conv": (
            "neck.fusion_stage.layers.{}.residual_layer{}.convolution{}"
        ),
        "fusion.residual.bn": (
            "neck.fusion_stage.layers.{}.residual_layer{}.batch_norm{}"
        ),
        "fusion.project": "neck.fusion_stage.layers.{}.projection",
        "conv": "head.head.0",
        "norm": "head.head.1",
    },
}

dpt = partial(DPT)
