"""ConvNeXt (Liu et al. 2022)."""

import dataclasses
import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from segjax.models.dense import normal_002
from segjax.models.heads import PoolNormDense
from segjax.models.layers import Features, Layers
from segjax.models.naming import Name, Tensors


class Block(nn.Module):
    """Depthwise 7x7 convolution, layer norm, two dense layers, scale, the shortcut."""

    drop_path: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, width = self.layers, x.shape[3]
        y = layers.conv(width, 7, groups=width, name="dwconv")(x)
        y = layers.layer_norm(name="norm")(y)
        y = layers.dense(4 * width, name="fc1")(y)
        y = layers.dense(width, name="fc2")(jax.nn.gelu(y, approximate=False))
        scale = self.param(
            "layer_scale",
            nn.initializers.constant(1e-6),
            (width,),
            layers.param_dtype,
        )
        y = y * scale.astype(y.dtype)[None, None, None]
        return x + layers.drop_path(y, self.drop_path, train)


class ConvNeXt(nn.Module):
    """Four stages of blocks: maps at strides 4, 8, 16, 32.

    The 4x4 and 2x2 patches that each stage begins with tile the image from its top left
    corner. The references drop rows and columns left over; by ``like`` "segjax" they
    are padded with zeros instead, so that no pixel goes unseen.

    By ``like`` "transformers" every map has a layer norm of its own; elsewhere the
    decoder sees to that, or it is the classifier's.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    layers: Layers = Layers()
    like: str = "segjax"
    drop_path: float = 0.1
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "timm", "smp", "transformers")
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolNormDense,
            torch={
                "torchvision": {"norm": "classifier.0", "dense": "classifier.2"},
                "timm": {"norm": "head.norm", "dense": "head.fc"},
            },
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*", "head.*", "layernorm.*")

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers = dataclasses.replace(self.layers, kernel_init=normal_002)
        x, maps = image, []
        block = layers.block(Block)
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if i == 0:
                x = self._patches(layers, x, 4, width, name="stage0_conv")
                x = layers.layer_norm(name="stage0_norm")(x)
            else:
                x = layers.layer_norm(name=f"stage{i}_norm")(x)
                x = self._patches(layers, x, 2, width, name=f"stage{i}_conv")
            for j in range(depth):
                name = f"stage{i}_block{j}"
                x = block(drop_path=rates.pop(0), layers=layers, name=name)(x, train)
            maps.append(x)
        if self.like == "transformers":
            maps = [
                layers.layer_norm(name=f"stage{i}_output")(x)
                for i, x in enumerate(maps)
            ]
        return Features(tuple(maps))

    def _patches(self, layers, x, size, width, name):
        """One vector of every patch of size x size pixels."""
        fill = [(0, -n % size if self.like == "segjax" else 0) for n in x.shape[1:3]]
        return layers.conv(width, size, strides=size, padding=fill, name=name)(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name, or the layer scale's, from its path in the encoder."""
        parts, inner = TORCH[naming]
        stage, part, block = re.findall(r"stage(\d)_([a-z]+)(\d*)", path[0])[0]
        if stage == "0" and part in ("conv", "norm"):
            part = f"stem_{part}"
        if part not in parts:
            return None
        i = int(stage)
        name = parts[part].format(i=i, next=i + 1, even=2 * i, odd=2 * i + 1, j=block)
        name = ".".join([name, *(inner[layer] for layer in path[1:])])
        if path[-1] == "layer_scale" and naming == "torchvision":
            return Tensors((name,), (self.widths[i], 1, 1))
        return name


# For each naming: parts of stage i (block j of it), and layers of a block.
TORCH = {
    "torchvision": (
        {
            "stem_conv": "features.0.0",
            "stem_norm": "features.0.1",
            "norm": "features.{even}.0",
            "conv": "features.{even}.1",
            "block": "features.{odd}.{j}",
        },
        {
            "dwconv": "block.0",
            "norm": "block.2",
            "fc1": "block.3",
            "fc2": "block.5",
            "layer_scale": "layer_scale",
        },
    ),
    "timm": (
        {
            "stem_conv": "stem.0",
            "stem_norm": "stem.1",
            "norm": "stages.{i}.downsample.0",
            "conv": "stages.{i}.downsample.1",
            "block": "stages.{i}.blocks.{j}",
        },
        {
            "dwconv": "conv_dw",
            "norm": "norm",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
            "layer_scale": "gamma",
        },
    ),
    "transformers": (
        {
            "stem_conv": "embeddings.patch_embeddings",
            "stem_norm": "embeddings.layernorm",
            "norm": "encoder.stages.{i}.downsampling_layer.0",
            "conv": "encoder.stages.{i}.downsampling_layer.1",
            "block": "encoder.stages.{i}.layers.{j}",
            "output": "hidden_states_norms.stage{next}",
        },
        {
            "dwconv": "dwconv",
            "norm": "layernorm",
            "fc1": "pwconv1",
            "fc2": "pwconv2",
            "layer_scale": "layer_scale_parameter",
        },
    ),
}
# SMP takes timm's as a list of features, whose outermost modules it renames.
TORCH["smp"] = (
    {
        part: re.sub(r"^(stem|stages)\.", r"model.\1_", name)
        for part, name in TORCH["timm"][0].items()
    },
    TORCH["timm"][1],
)

convnext_tiny = partial(ConvNeXt, (96, 192, 384, 768), (3, 3, 9, 3))
convnext_small = partial(ConvNeXt, (96, 192, 384, 768), (3, 3, 27, 3), drop_path=0.4)
convnext_base = partial(ConvNeXt, (128, 256, 512, 1024), (3, 3, 27, 3), drop_path=0.5)
convnext_large = partial(ConvNeXt, (192, 384, 768, 1536), (3, 3, 27, 3), drop_path=0.5)
