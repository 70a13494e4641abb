"""Mix Transformer, SegFormer's encoder (Xie et al. 2021)."""

import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.attention import attend
from segjax.models.heads import PoolDense
from segjax.models.layers import Features, Layers, kaiming_normal_fan_in
from segjax.models.naming import Name, Tensors


class Attention(nn.Module):
    """Self-attention to a map ``ratio`` times smaller (a strided convolution's)."""

    heads: int
    ratio: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, (b, height, width, channels) = self.layers, x.shape
        query = layers.dense(channels, name="q")(x)
        if self.ratio > 1:
            # Pixels left over are not attended to, as in the reference; a map smaller
            # than one window, which the reference refuses, is padded to one.
            fill = [(0, max(self.ratio - n, 0)) for n in (height, width)]
            x = layers.conv(
                channels, self.ratio, strides=self.ratio, padding=fill, name="sr"
            )(x)
            x = layers.layer_norm(eps=1e-5, name="norm")(x)
        both = layers.dense(2 * channels, name="kv")(x).reshape(b, -1, 2 * channels)
        key, value = jnp.split(both, 2, axis=2)
        y = attend(query.reshape(b, -1, channels), key, value, self.heads)
        y = layers.dense(channels, name="proj")(y)
        return y.reshape(b, height, width, channels)


class MixFFN(nn.Module):
    """Two dense layers with a depthwise 3x3 convolution between, which tells where."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, width = self.layers, 4 * x.shape[3]
        y = layers.dense(width, name="fc1")(x)
        # The reference divides the fan-out by the groups: here, that is the fan-in.
        y = layers.conv(
            width, 3, groups=width, kernel_init=kaiming_normal_fan_in, name="dwconv"
        )(y)
        y = jax.nn.gelu(y, approximate=False)
        return layers.dense(x.shape[3], name="fc2")(y)


class Block(nn.Module):
    """Attention and Mix-FFN, each normalised before and added to its input."""

    heads: int
    ratio: int
    drop_path: float
    eps: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers = self.layers
        y = layers.layer_norm(eps=self.eps, name="norm1")(x)
        y = Attention(self.heads, self.ratio, layers, name="attn")(y)
        x = x + layers.drop_path(y, self.drop_path, train)
        y = layers.layer_norm(eps=self.eps, name="norm2")(x)
        y = MixFFN(layers, name="mlp")(y)
        return x + layers.drop_path(y, self.drop_path, train)


class MixTransformer(nn.Module):
    """Four stages of overlapping patches and blocks: maps at strides 4, 8, 16, 32.

    There are no position tables, so any image size is at home. By ``like``
    "transformers" every layer norm has eps 1e-5, else those of the paper's code: 1e-6,
    but 1e-5 behind convolutions.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    layers: Layers = Layers()
    like: str = "segjax"
    heads: tuple[int, ...] = (1, 2, 5, 8)
    ratios: tuple[int, ...] = (8, 4, 2, 1)
    drop_path: float = 0.1
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("smp", "transformers")
    classifier_head: ClassVar = staticmethod(
        partial(PoolDense, torch={"transformers": "classifier"})
    )
    head_names: ClassVar[tuple[str, ...]] = ("classifier.*", "head.*")
    # What files are called whose transformers was older than 5: almost all there are.
    torch_renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"encoder\.patch_embeddings\.(\d)", r"stages.\1.patch_embeddings"),
        (r"encoder\.block\.(\d)", r"stages.\1.blocks"),
        (r"encoder\.layer_norm\.(\d)", r"stages.\1.layer_norm"),
        (r"attention\.self\.([qkv])[a-z]+", r"attention.\1_proj"),
        (r"attention\.self\.sr", "attention.sequence_reduction.sequence_reduction"),
        (r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"mlp\.dense([12])", r"mlp.fc\1"),
        (r"layer_norm_1", "layernorm_before"),
        (r"layer_norm_2", "layernorm_after"),
    )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers, x, maps = self.layers, image, []
        eps = 1e-5 if self.like == "transformers" else 1e-6
        block = layers.block(Block)
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            x = layers.conv(
                width, kernel, strides=stride, name=f"patch_embed{i + 1}_proj"
            )(x)
            x = layers.layer_norm(eps=1e-5, name=f"patch_embed{i + 1}_norm")(x)
            for j in range(depth):
                x = block(
                    heads=self.heads[i],
                    ratio=self.ratios[i],
                    drop_path=rates.pop(0),
                    eps=eps,
                    layers=layers,
                    name=f"block{i + 1}_{j}",
                )(x, train)
            x = layers.layer_norm(eps=eps, name=f"norm{i + 1}")(x)
            maps.append(x)
        return Features(tuple(maps))

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP keeps the names of the paper's code; transformers has its own."""
        name = re.sub(r"^(patch_embed\d|block\d)_", r"\1.", ".".join(path))
        name = name.replace("dwconv", "dwconv.dwconv")
        if naming != "transformers":
            return name
        part, stage, rest = re.split(r"(\d)\.?", name, maxsplit=1)
        if part == "block":
            index, layer = rest.split(".", 1)
            names = [f"blocks.{index}.{n}" for n in TRANSFORMERS.get(layer, (layer,))]
        else:
            names = TRANSFORMERS[f"{part}.{rest}".rstrip(".")]
        return Tensors(tuple(f"segformer.stages.{int(stage) - 1}.{n}" for n in names))


# Names in a block, or in a stage, and transformers' names there.
TRANSFORMERS = {
    "patch_embed.proj": ("patch_embeddings.proj",),
    "patch_embed.norm": ("patch_embeddings.layer_norm",),
    "norm": ("layer_norm",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.q": ("attention.q_proj",),
    "attn.kv": ("attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "attn.sr": ("attention.sequence_reduction.sequence_reduction",),
    "attn.norm": ("attention.sequence_reduction.layer_norm",),
}

mit_b0 = partial(MixTransformer, (32, 64, 160, 256), (2, 2, 2, 2))
mit_b1 = partial(MixTransformer, (64, 128, 320, 512), (2, 2, 2, 2))
mit_b2 = partial(MixTransformer, (64, 128, 320, 512), (3, 4, 6, 3))
mit_b3 = partial(MixTransformer, (64, 128, 320, 512), (3, 4, 18, 3))
mit_b4 = partial(MixTransformer, (64, 128, 320, 512), (3, 8, 27, 3))
mit_b5 = partial(MixTransformer, (64, 128, 320, 512), (3, 6, 40, 3))
