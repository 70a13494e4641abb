"""SegFormer's decoder of dense layers alone (Xie et al. 2021)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import (
    Conv,
    Features,
    Layers,
    kaiming_uniform_fan_in,
    xavier_uniform,
)
from segjax.models.naming import Name, Parts
from segjax.ops import table


class Composed(Conv):
    """A 1x1 convolution of maps that are dense and resized first, all in one.

    It is linear in each map, as are a dense layer and resizing: so it can come before
    the resizing, where maps are small, and be one product with the dense layer.
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        maps: Sequence[jax.Array],
        weights: Sequence[tuple[jax.Array, jax.Array]],
        resize: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """x[B, h, w, Ci], (kernel [Ci, C], bias [C]) of each map -> [B, H, W, Co]."""
        width = weights[0][1].size
        kernel, bias = self.weights(width * len(maps))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        multiply = partial(jnp.matmul, preferred_element_type=wide)
        results = []
        for i, (x, (matrix, shift)) in enumerate(zip(maps, weights, strict=True)):
            part = kernel[0, 0, i * width : (i + 1) * width]
            flat = x.astype(self.dtype).reshape(-1, x.shape[3])
            y = flat @ multiply(matrix, part).astype(self.dtype)
            y += multiply(shift, part).astype(self.dtype)[None]
            results.append(resize(y.reshape(*x.shape[:3], self.features)))
        y = sum(results[1:], results[0])
        return y if bias is None else y + bias[None, None, None, :]


class Segformer(nn.Module):
    """One dense layer on each map, all resized to stride 4, then one on all of them.

    Takes the maps at strides 4, 8, 16 and 32. By ``like`` "smp" all maps, so also a
    ResNet's at stride 2, and no dropout. The scores are at stride 4.
    """

    layers: Layers = Layers()
    like: str = "segjax"
    strides: tuple[int, ...] = (4, 8, 16, 32)
    decoder_segmentation_channels: int = 256
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("decoder_segmentation_channels",)
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "smp": Parts(),
        "transformers": Parts("", "decode_head.", "decode_head.classifier"),
    }
    torch_renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"decode_head\.linear_c\.", "decode_head.linear_projections."),
    )

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features of an image of ``size`` -> [B, ceil(H/4), ceil(W/4), channels]."""
        layers, width = self.layers, self.decoder_segmentation_channels
        maps = dict(zip(self.strides, features.maps, strict=True))
        rows, columns = (-(-n // 4) for n in size)
        if 4 in maps:
            rows, columns = maps[4].shape[1:3]
        resize = partial(
            layers.resize_bilinear, size=(rows, columns), align_corners=False
        )
        used = [maps[stride] for stride in reversed(self._used())]
        linear = [
            {
                "features": width,
                "kernel_init": xavier_uniform,
                "name": f"linear{stride}",
            }
            for stride in reversed(self._used())
        ]
        fuse = {"kernel_init": kaiming_uniform_fan_in, "name": "fuse"}
        if table.fuse(layers.platform) == "composed":
            weights = [
                layers.dense_weights(**options)(x.shape[3])
                for x, options in zip(used, linear, strict=True)
            ]
            convolve = layers.kind_before_norm(Composed, width, 1, **fuse)
            x = convolve(used, weights, resize)
        else:
            resized = [
                resize(layers.dense(**options)(x))
                for x, options in zip(used, linear, strict=True)
            ]
            convolve = layers.conv_before_norm(width, 1, **fuse)
            x = convolve(jnp.concatenate(resized, 3))
        x = layers.norm(relu=True, name="norm")(x, train)
        return layers.dropout(x, 0.0 if self.like == "smp" else 0.1, train)

    @nn.nowrap
    def _used(self) -> list[int]:
        """Strides of the maps that take part, finest first."""
        finest = 2 if self.like == "smp" else 4
        return [stride for stride in self.strides if stride >= finest]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """SMP counts dense layers from the deepest, transformers from the finest."""
        layer = path[0]
        if layer.startswith("linear"):
            index = self._used().index(int(layer.removeprefix("linear")))
            if naming == "transformers":
                return f"linear_projections.{index}.proj"
            return f"mlp_stage.{len(self._used()) - 1 - index}.linear"
        if naming == "transformers":
            return {"fuse": "linear_fuse", "norm": "batch_norm"}[layer]
        return {"fuse": "fuse_stage.0", "norm": "fuse_stage.1"}[layer]


segformer = partial(Segformer)
