"""Vision Transformer (Dosovitskiy et al. 2021) with patches of 16 x 16 pixels."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.attention import attend
from segjax.models.dense import normal_002
from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name, Tensors
from segjax.ops.resize import resize_bicubic, resize_bilinear

PATCH = 16


class Block(nn.Module):
    """Self-attention and two dense layers, each normalised before and added."""

    heads: int
    eps: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, N, C] -> the same shape."""
        layers, channels = self.layers, x.shape[2]
        y = layers.layer_norm(eps=self.eps, name="norm1")(x)
        y = layers.dense(3 * channels, name="qkv")(y)
        query, key, value = jnp.split(y, 3, axis=2)
        y = attend(query, key, value, self.heads)
        x = x + layers.dense(channels, name="proj")(y)
        y = layers.layer_norm(eps=self.eps, name="norm2")(x)
        y = layers.dense(4 * channels, name="fc1")(y)
        y = jax.nn.gelu(y, approximate=False)
        return x + layers.dense(channels, name="fc2")(y)


class ClassTokenHead(nn.Module):
    """The final layer norm, and one dense layer on the class token."""

    num_classes: int
    layers: Layers
    like: str = "segjax"

    @nn.compact
    def __call__(self, features: Features, train: bool) -> jax.Array:
        """Features -> logits [B, num_classes]."""
        x = features.tokens[-1][:, 0]
        x = self.layers.layer_norm(eps=1e-6, name="norm")(x)
        return self.layers.dense(self.num_classes, name="head")(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Timm's names are ours; no other package has this head around this encoder."""
        return path[0] if naming == "timm" else None


class VisionTransformer(nn.Module):
    """Tokens, and a pyramid made of them, from four depths of a plain transformer.

    ``tokens`` are [B, 1 + N, C], the class token first, then the N = ceil(H/16) *
    ceil(W/16) patches by rows, after each quarter of the blocks and before any final
    norm: what DPT takes (and SMP, transformers).

    ``maps`` serve every other decoder. They are the same four depths' patches, at
    strides 4, 8, 16 and 32: enlarged four times and twice (bilinear), as they are, and
    the maximum of 2 x 2. There is nothing to learn in that. ViTDet (Li et al. 2022) and
    mmsegmentation's MultiLevelNeck build pyramids at these scales.

    An image is padded with zeros, right and below, to whole patches; the maps are cut
    to ceil(H/s) x ceil(W/s). The table of positions is that of images of
    ``image_size`` squared and is resized to any other grid: bicubic with antialiasing
    as timm does, by ``like`` "transformers" bilinear. That also has its own eps.
    """

    width: int
    depth: int
    heads: int
    layers: Layers = Layers()
    like: str = "segjax"
    image_size: int = 224
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("smp", "timm", "transformers")
    provides: ClassVar[tuple[str, ...]] = ("tokens",)
    classifier_head: ClassVar = staticmethod(ClassTokenHead)
    head_names: ClassVar[tuple[str, ...]] = ("norm.*", "head.*")

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), width]."""
        layers, size = self.layers, image.shape[1:3]
        fill = [(0, -n % PATCH) for n in size]
        x = layers.conv(
            self.width,
            PATCH,
            strides=PATCH,
            padding=fill,
            kernel_init=torch_uniform,
            name="patch_embed",
        )(image)
        grid = x.shape[1:3]
        x = self._with_positions(x)
        block = layers.block(Block)
        eps = 1e-12 if self.like == "transformers" else 1e-6
        taken, tokens = [self.depth * k // 4 - 1 for k in (1, 2, 3, 4)], []
        for i in range(self.depth):
            x = block(heads=self.heads, eps=eps, layers=layers, name=f"block{i}")(
                x, train
            )
            if i in taken:
                tokens.append(x)
        return Features(self._pyramid(tokens, grid, size), tuple(tokens))

    def _with_positions(self, x: jax.Array) -> jax.Array:
        """Patches [B, h, w, C] -> [B, 1 + h * w, C] with class token and positions."""
        layers, (b, height, width, channels) = self.layers, x.shape
        side = self.image_size // PATCH
        tiny = nn.initializers.normal(1e-6)
        token = self.param("cls_token", tiny, (1, 1, channels), layers.param_dtype)
        table = self.param(
            "pos_embed",
            normal_002,
            (1, 1 + side * side, channels),
            layers.param_dtype,
        )
        places = table[:, 1:].reshape(1, side, side, channels)
        if self.like == "transformers":
            places = resize_bilinear(places, (height, width), align_corners=False)
        else:
            places = resize_bicubic(places, (height, width), antialias=True)
        token = (token + table[:, :1]).astype(x.dtype)
        x = (x + places.astype(x.dtype)).reshape(b, height * width, channels)
        return jnp.concatenate([jnp.broadcast_to(token, (b, 1, channels)), x], 1)

    def _pyramid(self, tokens, grid, size) -> tuple[jax.Array, ...]:
        """The maps that go with the tokens of an image of ``size``."""
        maps = []
        for stride, x in zip(self.strides, tokens, strict=True):
            x = x[:, 1:].reshape(x.shape[0], *grid, self.width)
            if stride > PATCH:
                x = self.layers.max_pool(x, 2, 2, ceil_mode=True)
            if stride < PATCH:
                rows, columns = (n * PATCH // stride for n in grid)
                x = resize_bilinear(x, (rows, columns), align_corners=False)
            rows, columns = (-(-n // stride) for n in size)
            maps.append(x[:, :rows, :columns])
        return tuple(maps)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Timm's name, which SMP has below ``model``, or that of transformers' DPT."""
        table = TRANSFORMERS if naming == "transformers" else TIMM
        place, layer = PLACES[naming], path[-1]
        if len(path) == 1:
            return place[0] + table[layer]
        block = f"{place[1]}{path[0].removeprefix('block')}."
        if naming == "transformers" and layer == "qkv":
            three = ("query", "key", "value")
            return Tensors(tuple(f"{block}{table[layer]}.{n}" for n in three))
        return block + table[layer]

    @nn.nowrap
    def torch_buffers(self, naming: str) -> dict[str, np.ndarray]:
        """The classifier's layers that SMP and transformers keep and never run."""
        ones, zeros = np.ones(self.width, np.float32), np.zeros(self.width, np.float32)
        if naming == "transformers":
            return {"layernorm.weight": ones, "layernorm.bias": zeros}
        if naming == "smp":
            return {
                "model.norm.weight": ones,
                "model.norm.bias": zeros,
                "model.head.weight": np.zeros((1000, self.width), np.float32),
                "model.head.bias": np.zeros(1000, np.float32),
            }
        return {}


# Before the names outside the blocks, and before a block's number.
PLACES = {
    "timm": ("", "blocks."),
    "smp": ("model.", "model.blocks."),
    "transformers": ("embeddings.", "encoder.layer."),
}
TIMM = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed": "patch_embed.proj",
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
TRANSFORMERS = {
    "cls_token": "cls_token",
    "pos_embed": "position_embeddings",
    "patch_embed": "patch_embeddings.projection",
    "norm1": "layernorm_before",
    "qkv": "attention.attention",
    "proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}

vit_small = partial(VisionTransformer, 384, 12, 6)
vit_base = partial(VisionTransformer, 768, 12, 12)
vit_large = partial(VisionTransformer, 1024, 24, 16)
# The same for images of 384 x 384, such as those of the published DPT.
vit_base_384 = partial(VisionTransformer, 768, 12, 12, image_size=384)
vit_large_384 = partial(VisionTransformer, 1024, 24, 16, image_size=384)
