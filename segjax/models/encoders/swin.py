"""Swin Transformer (Liu et al. 2021)."""

import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.attention import attend
from segjax.models.dense import normal_002
from segjax.models.heads import PoolNormDense
from segjax.models.layers import Features, Layers, torch_uniform
from segjax.models.naming import Name, Tensors


def partition(x, window: int):
    """x[B, h * window, w * window, C] -> windows [B * h * w, window^2, C]."""
    b, height, width, channels = x.shape
    h, w = height // window, width // window
    x = x.reshape(b, h, window, w, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * h * w, window**2, channels)


def join(windows, size: tuple[int, int]):
    """The inverse of :func:`partition`, for maps of ``size``."""
    window = round(windows.shape[1] ** 0.5)
    h, w = size[0] // window, size[1] // window
    x = windows.reshape(-1, h, w, window, window, windows.shape[2])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *size, windows.shape[2])


def pad_to(x: jax.Array, multiple: int) -> jax.Array:
    """Zeros right of and below x[B, H, W, C], up to a multiple in both directions."""
    fill = [(0, -n % multiple) for n in x.shape[1:3]]
    return jnp.pad(x, [(0, 0), *fill, (0, 0)])


def position_index(window: int) -> np.ndarray:
    """int64[window^2, window^2]: where the table has a query's offset to a key."""
    row, column = np.divmod(np.arange(window**2), window)
    rows, columns = (at[:, None] - at[None, :] + window - 1 for at in (row, column))
    return rows * (2 * window - 1) + columns


def regions(size: tuple[int, int], window: int, shift: tuple[int, int]) -> np.ndarray:
    """int[windows, window^2]: pixels of a rolled map that lay together before.

    The roll brings the first rows behind the last: a window there holds both, and they
    must not see each other.
    """
    rows, columns = (
        (np.arange(n) >= n - window).astype(int) + (np.arange(n) >= n - s)
        if s
        else np.zeros(n, int)
        for n, s in zip(size, shift, strict=True)
    )
    both = 3 * rows[:, None] + columns[None, :]
    return partition(both[None, :, :, None], window)[..., 0]


class WindowAttention(nn.Module):
    """Self-attention within windows of a map shifted by ``shift`` pixels.

    A map that one window covers is not shifted, unless ``always_shift``.
    """

    heads: int
    window: int
    shift: int
    always_shift: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, (batch, height, width, channels) = self.layers, x.shape
        x = pad_to(x, self.window)
        size = x.shape[1], x.shape[2]
        up, left = (
            self.shift if self.always_shift or n > self.window else 0 for n in size
        )
        bias = self._position_bias()
        if up or left:
            region = jnp.asarray(regions(size, self.window, (up, left)))
            apart = region[:, None, :, None] != region[:, None, None, :]
            bias = jnp.tile(bias + jnp.where(apart, -100.0, 0.0), (batch, 1, 1, 1))
            x = jnp.roll(x, (-up, -left), (1, 2))
        x = partition(x, self.window)
        both = layers.dense(3 * channels, name="qkv")(x)
        query, key, value = jnp.split(both, 3, axis=2)
        y = attend(query, key, value, self.heads, bias)
        y = layers.dense(channels, name="proj")(y)
        y = jnp.roll(join(y, size), (up, left), (1, 2))
        return y[:, :height, :width]

    def _position_bias(self):
        """[1, heads, window^2, window^2]: one number for each offset."""
        table = self.param(
            "relative_position_bias_table",
            normal_002,
            ((2 * self.window - 1) ** 2, self.heads),
            self.layers.param_dtype,
        )
        return table[position_index(self.window)].transpose(2, 0, 1)[None]


class Block(nn.Module):
    """Window attention and two dense layers, each normalised before, and shortcuts."""

    heads: int
    window: int
    shift: int
    always_shift: bool
    drop_path: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x[B, H, W, C] -> the same shape."""
        layers, width = self.layers, x.shape[3]
        y = layers.layer_norm(eps=1e-5, name="norm1")(x)
        y = WindowAttention(
            self.heads, self.window, self.shift, self.always_shift, layers, name="attn"
        )(y)
        x = x + layers.drop_path(y, self.drop_path, train)
        y = layers.layer_norm(eps=1e-5, name="norm2")(x)
        y = layers.dense(4 * width, name="fc1")(y)
        y = layers.dense(width, name="fc2")(jax.nn.gelu(y, approximate=False))
        return x + layers.drop_path(y, self.drop_path, train)


class Swin(nn.Module):
    """Four stages of blocks, windows shifted in every other: maps at 4, 8, 16, 32.

    Stages begin with patches of 4x4 pixels (the first) or 2x2. Maps are padded to whole
    patches and windows; only the image is not, by ``like`` "torchvision" and "timm".

    By ``like`` "transformers" windows are shifted in small maps too, and every map has
    a layer norm of its own; elsewhere the decoder sees to that, or it is the
    classifier's.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    layers: Layers = Layers()
    like: str = "segjax"
    window: int = 7
    drop_path: float = 0.2
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    namings: ClassVar[tuple[str, ...]] = ("torchvision", "timm", "smp", "transformers")
    classifier_head: ClassVar = staticmethod(
        partial(
            PoolNormDense,
            eps=1e-5,
            norm_first=True,
            torch={
                "torchvision": {"norm": "norm", "dense": "head"},
                "timm": {"norm": "norm", "dense": "head.fc"},
            },
        )
    )
    head_names: ClassVar[tuple[str, ...]] = ("norm.*", "head.*", "classifier.*")
    # What files are called whose transformers was older than 5: almost all there are.
    torch_renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^(backbone\.)?(embeddings\.|encoder\.layers\.)", r"\1swin.\2"),
        (r"attention\.self\.([qkv])[a-z]+", r"attention.\1_proj"),
        (r"attention\.self\.relative", r"attention.relative_position_bias.relative"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
    )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Features:
        """image[B, H, W, C] -> Features; map s is [B, ceil(H/s), ceil(W/s), .]."""
        layers, maps = self.layers, []
        block = layers.block(Block)
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        whole = self.like not in ("torchvision", "timm")
        x = layers.conv(
            self.width,
            4,
            strides=4,
            padding=0,
            kernel_init=torch_uniform,
            name="stage0_conv",
        )(pad_to(image, 4) if whole else image)
        x = layers.layer_norm(eps=1e-5, name="stage0_norm")(x)
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if i > 0:
                x = self._merge(x, i)
            for j in range(depth):
                x = block(
                    heads=heads,
                    window=self.window,
                    shift=self.window // 2 if j % 2 else 0,
                    always_shift=self.like == "transformers",
                    drop_path=rates.pop(0),
                    layers=layers,
                    name=f"stage{i}_block{j}",
                )(x, train)
            maps.append(x)
        if self.like == "transformers":
            maps = [
                layers.layer_norm(eps=1e-5, name=f"stage{i}_output")(x)
                for i, x in enumerate(maps)
            ]
        return Features(tuple(maps))

    def _merge(self, x, i):
        """2x2 pixels, column by column, become one of twice the width."""
        x = pad_to(x, 2)
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(b, h // 2, w // 2, 4 * c)
        x = self.layers.layer_norm(eps=1e-5, name=f"stage{i}_norm")(x)
        return self.layers.dense(2 * c, use_bias=False, name=f"stage{i}_reduction")(x)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The module's name, or the position table's, from its path in the encoder."""
        parts, inner = TORCH[naming]
        stage, part, block = re.findall(r"stage(\d)_([a-z]+)(\d*)", path[0])[0]
        if stage == "0" and part in ("conv", "norm"):
            part = f"stem_{part}"
        if part not in parts:
            return None
        i = int(stage)
        places = {"i": i, "before": i - 1, "next": i + 1, "even": 2 * i}
        name = parts[part].format(**places, odd=2 * i + 1, j=block)
        if len(path) == 1:
            return name
        layer = ".".join(path[1:])
        return Tensors(tuple(f"{name}.{n}" for n in inner.get(layer, (layer,))))

    @nn.nowrap
    def torch_buffers(self, naming: str) -> dict[str, np.ndarray]:
        """Torchvision's tables of offsets; transformers' norm that nothing reads."""
        if naming == "transformers":
            width = 8 * self.width
            return {
                "swin.layernorm.weight": np.ones(width, np.float32),
                "swin.layernorm.bias": np.zeros(width, np.float32),
            }
        if naming != "torchvision":
            return {}
        index = position_index(self.window).reshape(-1)
        return {
            f"features.{2 * i + 1}.{j}.attn.relative_position_index": index
            for i, depth in enumerate(self.depths)
            for j in range(depth)
        }


# For each naming: parts of stage i (block j of it), and layers of a block where they
# are not called as here.
TORCH = {
    "torchvision": (
        {
            "stem_conv": "features.0.0",
            "stem_norm": "features.0.2",
            "norm": "features.{even}.norm",
            "reduction": "features.{even}.reduction",
            "block": "features.{odd}.{j}",
        },
        {"fc1": ("mlp.0",), "fc2": ("mlp.3",)},
    ),
    "timm": (
        {
            "stem_conv": "patch_embed.proj",
            "stem_norm": "patch_embed.norm",
            "norm": "layers.{i}.downsample.norm",
            "reduction": "layers.{i}.downsample.reduction",
            "block": "layers.{i}.blocks.{j}",
        },
        {"fc1": ("mlp.fc1",), "fc2": ("mlp.fc2",)},
    ),
    "transformers": (
        {
            "stem_conv": "swin.embeddings.patch_embeddings.projection",
            "stem_norm": "swin.embeddings.norm",
            "norm": "swin.encoder.layers.{before}.downsample.norm",
            "reduction": "swin.encoder.layers.{before}.downsample.reduction",
            "block": "swin.encoder.layers.{i}.blocks.{j}",
            "output": "hidden_states_norms.stage{next}",
        },
        {
            "norm1": ("layernorm_before",),
            "norm2": ("layernorm_after",),
            "attn.qkv": tuple(f"attention.{n}_proj" for n in "qkv"),
            "attn.proj": ("attention.o_proj",),
            "attn.relative_position_bias_table": (
                "attention.relative_position_bias.relative_position_bias_table",
            ),
            "fc1": ("mlp.fc1",),
            "fc2": ("mlp.fc2",),
        },
    ),
}
# SMP takes timm's as a list of features, whose outermost modules it renames.
TORCH["smp"] = (
    {
        part: "model." + name.replace("layers.", "layers_")
        for part, name in TORCH["timm"][0].items()
    },
    TORCH["timm"][1],
)

swin_t = partial(Swin, 96, (2, 2, 6, 2), (3, 6, 12, 24))
swin_s = partial(Swin, 96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path=0.3)
swin_b = partial(Swin, 128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path=0.5)
