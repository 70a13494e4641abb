"""Fully convolutional networks (Long, Shelhamer & Darrell 2015; PAMI 2017).

The paper pads the image by 100 pixels and crops every map by a computed offset. Here
all convolutions keep the size ("same" padding), and where an upsampled map is not as
large as the one it is added to it is resized to it bilinearly: both then cover the
whole image, as the final resize assumes too. At multiples of the stride nothing is.

The last upsampling, to the image's size, is the segmenter's bilinear one: it is fixed
in the authors' final models as well.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.heads import FCNHead
from segjax.models.layers import Features, Layers, normal_001, xavier_uniform
from segjax.models.naming import Name, Parts


def bilinear(key, shape: tuple[int, int, int, int], dtype=jnp.float32) -> jax.Array:
    """Initial kernel[k, k, C, C] of bilinear upsampling, each channel by itself."""
    k = shape[0]
    factor = (k + 1) // 2
    centre = factor - 1 if k % 2 else factor - 0.5
    taps = 1 - jnp.abs(jnp.arange(k) - centre) / factor
    channels = jnp.eye(shape[2], shape[3])[None, None]
    return ((taps[:, None] * taps[None, :])[:, :, None, None] * channels).astype(dtype)


class FCN32s(nn.Module):
    """Score the deepest map alone; bilinear upsampling does the rest.

    ``fc_channels`` is the width of the two convolutionised fully connected layers (7x7
    and 1x1, with dropout) before the scores; 0: none. By default there are 4096 on an
    encoder whose classifier has these layers (VGG, AlexNet, there 6x6 in the paper):
    they are the published network, and only they look further than the last pooling.
    Others that pool globally (ResNet, and GoogLeNet in the paper) are scored directly.

    The paper starts the scoring layer at zero, which blocks every gradient to the
    encoder in the first step. Here it starts as the other heads do (Xavier uniform).
    """

    layers: Layers = Layers()
    provides: tuple[str, ...] = ()
    fc_channels: int | None = None
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("fc_channels",)
    head_kernel: ClassVar[int] = 1
    head_init: ClassVar = staticmethod(xavier_uniform)
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> the deepest map, [B, h, w, C or fc_channels]."""
        return _fully_connected(self, features.maps[-1], train)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Nobody's: our own path."""
        return ".".join(path)


class FCN(nn.Module):
    """Torchvision's: an :class:`FCNHead` scores the deepest map; no skips.

    The encoder is dilated to output stride 8 where it can be.
    """

    num_classes: int
    layers: Layers = Layers()
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    head_kernel: ClassVar[int] = 0
    output_stride: ClassVar = staticmethod(lambda like: 8)
    torch_parts: ClassVar[dict[str, Parts]] = {
        "torchvision": Parts("backbone.", "classifier.", "", "aux_classifier.")
    }

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> scores [B, h, w, num_classes] at the deepest map's size."""
        head = FCNHead(self.num_classes, self.layers, name="head")
        return head(features.maps[-1], train)

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """The head's name."""
        return FCNHead(self.num_classes, self.layers).torch_name(path[1:], naming)


class FCNSkips(nn.Module):
    """Scores of finer maps, down to stride ``finest``, added to the deepest one's.

    Between them the scores are upsampled (2x) by transposed convolutions that start as
    bilinear interpolation and learn. The layers that score the skips start at zero, as
    in the paper: at first the deepest scores count alone, and it is through them, which
    start as in :class:`FCN32s`, that gradients reach the encoder.

    A skip is the map of its stride. Of an encoder that hands out its maps before
    pooling (VGG) it is the pooled one, so that they are the paper's pool4 and pool3.
    Strides that the encoder lacks have no skip. ``fc_channels`` as in :class:`FCN32s`.
    """

    finest: int
    layers: Layers = Layers()
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    provides: tuple[str, ...] = ()
    num_classes: int = 21
    fc_channels: int | None = None
    any_size: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("fc_channels",)
    head_kernel: ClassVar[int] = 0
    torch_parts: ClassVar[dict[str, Parts]] = {"smp": Parts()}

    @nn.compact
    def __call__(
        self, features: Features, size: tuple[int, int], *, train: bool
    ) -> jax.Array:
        """Features -> scores [B, h, w, num_classes] at stride ``finest``."""
        x = _fully_connected(self, features.maps[-1], train)
        deepest, *finer = sorted(self.strides, reverse=True)
        x = self._score(x, deepest, xavier_uniform)
        reached = deepest
        for stride in finer:
            if stride < self.finest:
                break
            factor, reached = reached // stride, stride
            x = self.layers.conv_transpose(
                self.num_classes,
                2 * factor,
                factor,
                padding=factor // 2,
                use_bias=False,
                kernel_init=bilinear,
                name=f"upscore{stride}",
            )(x)
            skip = self._skip(features, stride)
            x = self.layers.resize_bilinear(
                x, (skip.shape[1], skip.shape[2]), align_corners=False
            ) + self._score(skip, stride, nn.initializers.zeros_init())
        return x

    def _score(self, x: jax.Array, stride: int, kernel_init) -> jax.Array:
        """One score per class from the map of a stride."""
        return self.layers.conv(
            self.num_classes, 1, kernel_init=kernel_init, name=f"score{stride}"
        )(x)

    def _skip(self, features: Features, stride: int) -> jax.Array:
        """The map of a stride as the encoder's next stage sees it."""
        maps = dict(zip(self.strides, features.maps, strict=True))
        if "pooling switches" in self.provides:
            return self.layers.max_pool(maps[stride // 2], 2, 2)
        return maps[stride]

    @nn.nowrap
    def torch_name(self, path: tuple[str, ...], naming: str) -> Name:
        """Nobody's: our own path."""
        return ".".join(path)


def _fully_connected(decoder, x: jax.Array, train: bool) -> jax.Array:
    """VGG's first two dense layers as convolutions ``fc6`` and ``fc7``, or ``x``.

    Initialised as VGG's. A 7x7 map's classifier.0 in torchvision is fc6, reshaped.
    """
    channels = decoder.fc_channels
    if channels is None:
        channels = 4096 if "fully connected layers" in decoder.provides else 0
    if channels < 0:
        raise ValueError(f"fc_channels is {channels}; it must be 0 (none) or more")
    layers = decoder.layers
    for name, kernel_size in (("fc6", 7), ("fc7", 1)) if channels else ():
        x = layers.conv(channels, kernel_size, kernel_init=normal_001, name=name)(x)
        x = layers.dropout(nn.relu(x), 0.5, train)
    return x


fcn = partial(FCN)
fcn32s = partial(FCN32s)
fcn16s = partial(FCNSkips, 16)
fcn8s = partial(FCNSkips, 8)
