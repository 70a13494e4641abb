"""The layers that every network is built from, on top of segjax.ops.

A network receives one :class:`Layers` with dtypes, norm and platform settled and asks
it for convolutions and norms; families change single fields with
``dataclasses.replace``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.dense import Dense, DenseWeights, LayerNorm
from segjax.models.drop import DropPath
from segjax.models.norm import Norm
from segjax.models.transposed import ConvTranspose
from segjax.ops import conv as conv_ops
from segjax.ops import lanes, packed, table
from segjax.ops import pool as pool_ops
from segjax.ops import resize as resize_ops
from segjax.ops.packed import Packed, Window

Initializer = Callable[..., jax.Array]

kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torchvision's for convolutions (He et al. 2015)."""

kaiming_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""torchvision's for DenseNet, the authors' for SegNet."""

kaiming_uniform_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""segmentation_models_pytorch's for decoders."""

xavier_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
"""segmentation_models_pytorch's for heads (Glorot & Bengio 2010)."""

normal_001 = nn.initializers.normal(0.01)
"""torchvision's for VGG's and MobileNet's dense layers and all of GoogLeNet."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's own, of networks that set none: U(-1, 1) / sqrt(fan_in)."""


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at most a tenth below ``channels``.

    The MobileNets' and EfficientNets' rule for scaled widths.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Features(NamedTuple):
    """An encoder's result: ``maps`` [B, h, w, C], finest first, and a ViT's tokens.

    ``packed`` is the finest map again, in the form that it was computed in: whoever
    replaces that map has to take it out.
    """

    maps: tuple[jax.Array, ...]
    tokens: tuple[jax.Array, ...] = ()
    packed: Packed | None = None


class Octave(NamedTuple):
    """One halving of the image: the encoder's map there, or None, and its size.

    ``packed`` is the map again, where the encoder computed it so.
    """

    map: jax.Array | None
    size: tuple[int, int]
    packed: Packed | None = None


def octaves(
    features: Features, strides: Sequence[int], size: tuple[int, int]
) -> list[Octave]:
    """The maps at stride 2, 4, 8, ... down to the deepest, for an image of ``size``.

    A map finer than stride 2 is left out; a stride that the encoder lacks has no map,
    and the size that halving upwards gives (ceil). ``strides`` are nominal: a dilated
    encoder's maps keep their places.
    """
    maps = dict(zip(strides, features.maps, strict=True))
    found, stride = [], 2
    while stride <= max(strides):
        rows, columns = (-(-n // stride) for n in size)
        one = maps.get(stride)
        if one is not None:
            rows, columns = one.shape[1], one.shape[2]
        again = features.packed if stride == strides[0] else None
        found.append(Octave(one, (rows, columns), again))
        stride *= 2
    return found


class Conv(nn.Module):
    """Convolution with parameters ``kernel`` [kh, kw, Ci/groups, Co] and ``bias``.

    ``padding`` None keeps the size at stride 1: dilation * (kernel - 1) / 2. A packed
    map (:mod:`segjax.ops.packed`) gives a packed one; with ``fill_lanes`` it gets more
    channels than ``features``, with the value NEVER, so that the lanes are full. With
    ``pack`` and stride 2 a large image may give one too, in window (2, 2).
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int | Sequence | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    fill_lanes: bool = False
    pack: bool = False
    kernel_init: Initializer = kaiming_normal_fan_out
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    platform: str | None = None
    spatial: int = 1

    def weights(
        self, channels: int, dtype: Any = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Kernel and bias for ``channels`` input channels, in the compute dtype.

        The kernel in another one if so asked.
        """
        k = self.kernel_size
        shape = (k, k, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        kernel = kernel.astype(dtype or self.dtype)
        if not self.use_bias:
            return kernel, None
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return kernel, bias.astype(self.dtype)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """x[B, H, W, Ci] -> [B, H', W', Co] in the compute dtype; perhaps packed.

        Raises:
          ValueError: x is packed, and the convolution has strides, dilation or groups.
        """
        if isinstance(x, Packed):
            return self._packed(x)
        kernel, bias = self.weights(x.shape[3])
        padding = self.padding
        if padding is None:
            padding = self.dilation * (self.kernel_size - 1) // 2
        if self._reads_packed(x, kernel, padding):
            return self._stem(x.astype(self.dtype), kernel, bias)
        y = conv_ops.conv2d(
            x.astype(self.dtype),
            kernel,
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            platform=self.platform,
            spatial=self.spatial,
        )
        return y if bias is None else y + bias[None, None, None, :]

    def _reads_packed(self, x, kernel, padding) -> bool:
        return self.dilation == self.groups == 1 and table.stem(
            self.platform,
            (x.shape[1], x.shape[2]),
            kernel.shape,
            (self.strides, self.strides),
            conv_ops.both_sides(padding),
            self.spatial,
        )

    def _stem(self, x, kernel, bias) -> Any:
        window = (2, 2) if self.pack and self.strides == 2 else (1, 1)
        block = self.strides * window[0]
        x = packed.pack_image(x, (block, block))
        y = packed.conv(x, kernel, window, strides=self.strides)
        y = y if bias is None else packed.add_bias(y, bias)
        return y if window != (1, 1) else packed.unpack(y)

    def _packed(self, x: Packed) -> Packed:
        if (self.strides, self.dilation, self.groups, self.padding) != (1, 1, 1, None):
            raise ValueError(f"{self.name}: no packed form of this convolution")
        kernel, bias = self.weights(x.channels)
        if self.fill_lanes:
            more = packed.filled(self.features, x.phases) - self.features
            kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, more)))
            bias = jnp.zeros(self.features, self.dtype) if bias is None else bias
            bias = jnp.pad(bias, (0, more), constant_values=lanes.NEVER)
        x = Packed(x.array.astype(self.dtype), x.window)
        y = packed.conv(x, kernel, x.window)
        return y if bias is None else packed.add_bias(y, bias)


class ConvWeights(Conv):
    """The parameters of a :class:`Conv`, whose options it takes."""

    @nn.compact
    def __call__(self, channels: int) -> Any:  # type: ignore[override]
        """Kernel and bias, or None, for ``channels`` input channels."""
        return self.weights(channels)


class UpsampledConv(Conv):
    """3x3 convolution of (nearest-upsampled x, skip); parameters as :class:`Conv`'s.

    The result is packed (:mod:`segjax.ops.packed`) in ``window``, if not (1, 1); the
    skip may be packed then.
    """

    window: Window = (1, 1)

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: jax.Array | Packed,
        skip: jax.Array | Packed | None,
        size: tuple[int, int],
    ) -> Any:
        """x[B, h, w, Cx], skip[B, *size, Cs] or None -> [B, *size, Co]."""
        channels = sum(
            0 if m is None else m.channels if isinstance(m, Packed) else m.shape[3]
            for m in (x, skip)
        )
        # Its parts are cast when they are taken: a TPU would store the whole, too.
        kernel, bias = self.weights(channels, self.param_dtype)
        if self.window != (1, 1):
            y = self._to_packed(x, skip, kernel)
            return y if bias is None else packed.add_bias(y, bias)
        x = packed.unpack(x) if isinstance(x, Packed) else x
        skip = packed.unpack(skip) if isinstance(skip, Packed) else skip
        y = conv_ops.conv_upsampled(
            x.astype(self.dtype),
            None if skip is None else skip.astype(self.dtype),
            kernel,
            size,
            platform=self.platform,
        )
        return y if bias is None else y + bias[None, None, None, :]

    def _to_packed(self, x, skip, kernel) -> Packed:
        if isinstance(x, Packed):
            x = packed.pack(x, (self.window[0] // 2, self.window[1] // 2))
            x = Packed(x.array.astype(self.dtype), x.window)
        else:
            x = Packed(x.astype(self.dtype))
        part = kernel[:, :, : x.channels].astype(self.dtype)
        y = packed.conv(x, part, self.window, factor=2)
        if skip is None:
            return y
        if isinstance(skip, Packed):
            skip = packed.pack(skip, self.window)
            skip = Packed(skip.array.astype(self.dtype), skip.window)
        else:
            skip = skip.astype(self.dtype)
        part = kernel[:, :, x.channels :].astype(self.dtype)
        more = packed.conv(skip, part, self.window)
        return Packed(y.array + more.array, y.window)


@dataclass(frozen=True)
class Layers:
    """What all layers of a network share; hashable, so modules carry it as a field.

    ``spatial`` is the number of devices over which the rows of all maps are split.
    """

    norm_kind: str = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    norm_groups: int = 1
    kernel_init: Initializer = kaiming_normal_fan_out
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    platform: str | None = None
    spatial: int = 1

    def _conv(self, kind, features, kernel_size, options):
        options = {"kernel_init": self.kernel_init, **options}
        return kind(
            features,
            kernel_size,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            platform=self.platform,
            **options,
        )

    def conv(self, features: int, kernel_size: int = 3, **options) -> Conv:
        """A :class:`Conv`; ``options`` are its other fields."""
        options = {"spatial": self.spatial, **options}
        return self._conv(Conv, features, kernel_size, options)

    def conv_weights(self, features: int, kernel_size: int, **options) -> ConvWeights:
        """The parameters of :meth:`conv`."""
        return self._conv(ConvWeights, features, kernel_size, options)

    def conv_before_norm(self, features: int, kernel_size: int = 3, **options) -> Conv:
        """A :class:`Conv` with a bias only if the norm after it is "none"."""
        return self.conv(
            features, kernel_size, use_bias=self.norm_kind == "none", **options
        )

    def kind_before_norm(
        self, kind: type[nn.Module], features: int, kernel_size: int, **options
    ) -> Any:
        """A ``kind`` of :class:`Conv`, otherwise as :meth:`conv_before_norm`."""
        options = {"use_bias": self.norm_kind == "none", **options}
        return self._conv(kind, features, kernel_size, options)

    def upsampled_conv_before_norm(self, features: int, **options) -> UpsampledConv:
        """An :class:`UpsampledConv`, otherwise as :meth:`conv_before_norm`."""
        return self.kind_before_norm(UpsampledConv, features, 3, **options)

    @property
    def packs(self) -> bool:
        """Whether the norm has a packed form (:mod:`segjax.ops.packed`).

        Norms over groups of channels, or of each pixel, have none.
        """
        return self.norm_kind in ("batch", "none")

    def window(
        self, channels: int, size: tuple[int, int], target: tuple[int, int]
    ) -> Window:
        """:func:`segjax.ops.table.window`, (1, 1) where the norm has no packed form."""
        if not self.packs:
            return 1, 1
        return table.window(self.platform, channels, size, target)

    def conv_transpose(
        self, features: int, kernel_size: int, strides: int, **options
    ) -> ConvTranspose:
        """A :class:`ConvTranspose`; ``options`` are its other fields."""
        options = {"strides": strides, "spatial": self.spatial, **options}
        return self._conv(ConvTranspose, features, kernel_size, options)

    def dense(self, features: int, **options) -> Dense:
        """A :class:`segjax.models.dense.Dense`; ``options`` are its other fields."""
        return Dense(
            features, dtype=self.dtype, param_dtype=self.param_dtype, **options
        )

    def dense_weights(self, features: int, **options) -> DenseWeights:
        """The parameters of :meth:`dense`."""
        return DenseWeights(
            features, dtype=self.dtype, param_dtype=self.param_dtype, **options
        )

    def layer_norm(self, *, name: str, eps: float = 1e-6) -> LayerNorm:
        """A layer norm whatever ``norm_kind`` is, for networks built around it."""
        return LayerNorm(eps=eps, param_dtype=self.param_dtype, name=name)

    def dropout(
        self, x: jax.Array, rate: float, train: bool, *, whole_maps: bool = False
    ) -> jax.Array:
        """Zero a share ``rate`` of the elements in training (key stream "dropout").

        ``whole_maps`` zeroes all pixels of a channel of x[B, H, W, C] together, as
        torch.nn.Dropout2d (Tompson et al. 2015).
        """
        if not train or rate == 0:
            return x
        shared = (1, 2) if whole_maps else ()
        return nn.Dropout(rate, broadcast_dims=shared, deterministic=False)(x)

    def drop_path(self, x: jax.Array, rate: float, train: bool) -> jax.Array:
        """Zero whole examples of a residual branch (Huang et al. 2016) in training."""
        return DropPath(rate)(x) if train and rate > 0 else x

    def norm(self, *, relu: bool = False, name: str) -> Norm:
        """A :class:`Norm`, with the ReLU after it where ``relu``."""
        return Norm(
            kind=self.norm_kind,
            relu=relu,
            eps=self.norm_eps,
            momentum=self.norm_momentum,
            groups=self.norm_groups,
            param_dtype=self.param_dtype,
            platform=self.platform,
            name=name,
        )

    def max_pool(
        self,
        x: jax.Array | Packed,
        window: int | Sequence[int],
        strides: int | Sequence[int],
        padding: int = 0,
        **kw,
    ):
        """:func:`segjax.ops.pool.max_pool` on the network's platform."""
        if isinstance(x, Packed):
            if not kw and (window, strides, padding, x.window) == (3, 2, 1, (2, 2)):
                return packed.max_pool(x)
            x = packed.unpack(x)
        return pool_ops.max_pool(
            x, window, strides, padding, platform=self.platform, **kw
        )

    def resize_bilinear(
        self, x: jax.Array, size: tuple[int, int], *, align_corners: bool
    ) -> jax.Array:
        """:func:`segjax.ops.resize.resize_bilinear` on the network's devices."""
        return resize_ops.resize_bilinear(
            x,
            size,
            align_corners=align_corners,
            platform=self.platform,
            spatial=self.spatial,
        )

    def block(self, module: type[nn.Module]) -> type[nn.Module]:
        """The module class, rematerialised if so asked; called as ``block(x, train)``.

        Instances need an explicit ``name``, so that the tree stays the same.
        """
        return nn.remat(module, static_argnums=(2,)) if self.remat else module
