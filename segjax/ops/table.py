"""Which formulation computes an operation: the one place where that is decided.

Every function takes ``platform`` ("cpu", "tpu", "gpu" or None, which means plain), the
dtype and shapes without the batch dimension (but :func:`beside`, whose formulation puts
the images of a batch into one), and returns the formulation's name. Each
formulation equals the plain one: forward and all gradients (tests/ops). The numbers
behind the CPU rows are in the functions' comments: GF/s of XLA's own filter gradient
against the formulation's, float32, an AVX-512 core (two of them in "dot", "patches").
"""

from typing import Any

import jax
import jax.numpy as jnp

from segjax.ops.beside import cores, pieces
from segjax.ops.filter_gradient import BAND, band

LARGE = 2**14
"""Pixels of a map whose shifted copies leave a core's own cache."""
BROAD = 2**18
"""Values of a map whose copies for products with matrices take longer than the rest."""
DEEP = 2**24
"""Pixels times channels in times channels out from which Winograd's products pay."""


def suited(platform: str | None, spatial: int) -> str | None:
    """The platform whose formulations suit rows that ``spatial`` devices share.

    Those for a CPU join rows and columns to one axis, for which XLA would first gather
    the rows: the plain ones then.
    """
    return None if platform == "cpu" and spatial > 1 else platform


def resize(
    platform: str | None,
    spatial: int,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    align_corners: bool,
) -> str:
    """Bilinear resizing of a map ``shape`` (H, W, C): "matrices" as a rule.

    "taps" where ``spatial`` devices share the rows: XLA sums a product over shared rows
    by an all-reduce of the whole result; taps ask the neighbours for a row. Alone the
    product is the faster on a CPU.

    "transposed" on a TPU, for maps of many channels: products put columns in the lanes,
    and the convolutions around them would copy the map.

    "neighbours" on a CPU, to large maps by whole factors.
    """
    rows, columns, channels = shape
    divides = size[0] % rows == 0 and size[1] % columns == 0
    whole = divides and not align_corners
    factors = size[0] // rows, size[1] // columns
    if 1 < spatial <= rows and size[0] > rows and size[0] % rows == 0:
        return "matrices" if align_corners else "taps"
    if platform == "cpu" and divides and size[0] * size[1] * channels >= BROAD:
        return "neighbours"  # 4 x 64x64 x 21 to 256x256, with backward: 36 -> 9 ms
    few = whole and max(factors) <= 8
    return "transposed" if platform == "tpu" and few and channels >= 64 else "matrices"


def conv(
    platform: str | None,
    dtype: Any,
    size: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    groups: int,
    dilation: tuple[int, int] = (1, 1),
    spatial: int = 1,
) -> str:
    """Formulation of a convolution with ``kernel`` [kh, kw, Ci/groups, Co].

    Returns one of "plain", "dot" (1x1: a product over channels), "blocks" (the same
    where stride and kernel are alike), "patches" (the taps side by side, then one
    product), "depthwise" (shifted multiply-adds), or one of
    segjax.ops.filter_gradient ("winograd": all, the others: that gradient alone). Where
    ``spatial`` devices share the rows and a tap lies beyond the neighbour's, "rows":
    one convolution per row of the kernel, each of the shifted map. XLA would gather the
    map, of which the taps need three rows per device's row.
    """
    kh, kw, c_in, c_out = kernel
    reach = dilation[0] * (kh - 1) // 2
    same = strides == (1, 1) and padding[0] == (reach, reach) and kh % 2 == 1
    if spatial > 1 and same and reach * spatial > size[0]:
        return "rows"
    if platform != "cpu":
        return "plain"
    if groups == c_out and c_in == 1 and c_out > 1:
        return "depthwise"  # 8 x 90x120 x 32, 3x3, forward: 97 ms -> 2 ms
    if groups != 1:
        return "plain"
    if (kh, kw) == (1, 1) and padding == ((0, 0), (0, 0)):
        return "dot"  # 6-17 -> 75-150
    whole = size[0] % kh == size[1] % kw == 0 and not any(map(sum, padding))
    if (kh, kw) == strides and whole and dilation == (1, 1):
        return "blocks"  # 256x256, 4x4 / 4, 3 -> 96, with backward: 26 -> 11 ms
    if size[1] <= 2 and kw > 1:
        return "patches"  # 16 x 2x2, 512 -> 512, forward: 2 -> 89
    if jax.device_count() == 1:  # a batch, and products over all of it, are whole
        found = _large(dtype, size, kernel, strides, padding, dilation)
        if found is not None:
            return found
    if (kh, kw) == (2, 2) and strides == (1, 1):
        return "taps"  # XLA's own takes forty times as long: speed_gradients.json
    if (kh, kw) != (3, 3) or c_in < 8:
        return "plain"
    one = padding == ((1, 1), (1, 1)) and strides == dilation == (1, 1)
    if strides != (1, 1):
        return "taps" if c_in >= 32 else "plain"  # 16x16, 256 -> 512: 93 -> 118
    if c_in >= 128 and 4 * c_out <= c_in:
        return "gim"  # 128x128, 128 -> 32: 32 -> 61 (of several devices)
    if one and size[1] % 2 == 0 and c_in >= 64 and c_out >= 32:
        return "pairs"  # 64x64, 64 -> 64: 38 -> 78; split 48. 8x8, 512: 82 -> 92
    if c_in >= 128 and 2 * c_out <= c_in:
        return "gim"  # 64x64, 128 -> 64: 29 -> 48
    if min(c_in, c_out) >= 32 or (c_in >= 16 and c_out % 16):
        return "split"  # 32x32, 128 -> 128: 44 -> 69; 256x256, 16 -> 21: 7 -> 18
    return "plain"  # 256x256, 32 -> 16 (of several devices): nothing beats XLA


def picked(
    spatial: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> bool:
    """Whether a strided 1x1 convolution picks its pixels first, where rows are shared.

    (:func:`segjax.ops.shift.picked`; ``spatial`` devices share them.)
    """
    if spatial == 1 or strides == (1, 1) or kernel[:2] != (1, 1):
        return False
    whole = size[0] % (spatial * strides[0]) == 0 and size[1] % strides[1] == 0
    return whole and not any(map(sum, padding))


def separable_by_rows(
    spatial: int, height: int, kernel: int, dilation: int, c_in: int, c_out: int
) -> bool:
    """Whether a separable convolution of rows that ``spatial`` devices share is summed.

    (:mod:`segjax.ops.separable`.) Where a tap lies beyond the neighbour's rows, and the
    result has fewer channels to exchange.
    """
    if spatial == 1 or 2 * c_out > c_in or kernel % 2 == 0:
        return False
    return dilation * (kernel // 2) * spatial > height


def _large(
    dtype: Any,
    size: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
) -> str | None:
    """:func:`conv` of one group on a CPU's only device, where maps are large.

    Numbers: docs/results/speed_gradients.json, two cores.
    """
    kh, kw, c_in, c_out = kernel
    reach = [dilation[i] * (kernel[i] - 1) for i in (0, 1)]
    height, width = (
        (size[i] + sum(padding[i]) - reach[i] - 1) // strides[i] + 1 for i in (0, 1)
    )
    if winograd(dtype, size, kernel, strides, padding, dilation):
        return "winograd"
    if height * width < LARGE:
        return None
    if c_in < 8:
        fits = dilation == (1, 1) and width % 2 == 0 and kh * kw > 1
        return "windows" if fits else None
    small = 1 < kh * kw and max(kh, kw) <= 3 and reach[0] <= BAND // 2
    if strides == (1, 1) and small and band(size[0]) >= BAND // 2:
        return "gim in bands" if c_in >= 4 * c_out else "split in bands"
    return None


def narrow_first(shape: tuple[int, ...], c_out: int) -> bool:
    """Whether a 1x1 convolution of a map (H, W, Ci) has a filter gradient of its own.

    (:func:`segjax.ops.filter_gradient.narrow_first`.) A resnet50's reducing ones.
    """
    height, width, c_in = shape
    # On several devices XLA splits the product that it knows.
    alone = jax.device_count() == 1 and c_in > c_out
    return alone and height * width * c_in * c_out >= 2**26


def winograd(
    dtype: Any,
    size: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
) -> bool:
    """Whether a CPU's only device convolves a map of ``size`` by Winograd's products.

    One group, as large a result. Numbers: docs/results/speed_winograd.json.
    """
    same = padding == tuple((d, d) for d in dilation) and strides == (1, 1)
    exact = jnp.dtype(dtype).itemsize >= 4  # it adds values before it multiplies
    if jax.device_count() > 1 or kernel[:2] != (3, 3) or not same or not exact:
        return False
    pixels, (few, many) = size[0] * size[1], sorted(kernel[2:])
    # Of each of the maps that a dilated one is, pairs of rows and columns.
    high, wide = (2 * d * -(-n // (2 * d)) for n, d in zip(size, dilation, strict=True))
    # From 128x128 on 64 channels have too few products for what their maps move.
    fits = few >= 64 and pixels >= 64 and (pixels < LARGE or many >= 128)
    return fits and 4 * high * wide <= 5 * pixels and pixels * few * many >= DEEP


def beside(
    dtype: Any,
    images: int,
    size: tuple[int, int],
    kernel: tuple[int, ...],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """How a CPU's cores come to share a convolution of one group, stride and all.

    (images, parts of their rows) that :mod:`segjax.ops.beside` puts side by side to a
    result of ``size`` each; (1, 1): none. Two cores, 4 x 64x64, 64 -> 64, forward: 165
    -> 290 GF/s; 4 x 256x256, 16 -> 21: 75 -> 140. Where more devices than one share the
    cores, or the images, each has work of its own.
    """
    # Others go to Eigen, which shares all out: 256x256, 16 -> 16, and other dtypes.
    own = jnp.dtype(dtype) == jnp.float32 and max(kernel[2:]) > 16
    if not own or max(kernel[:2]) == 1 or jax.device_count() > 1:
        return 1, 1
    return pieces(cores(), images, size, kernel, dilation)


def conv_transpose(
    platform: str | None,
    spatial: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int],
) -> str:
    """A transposed convolution whose patches overlap: "plain", or "phases" on a CPU.

    One plain convolution for the pixels between two of the input, where the result is
    ``strides`` times as large. XLA:CPU's own gradients take a slow path.
    """
    # Both gradients on two busy cores: 8 x 24x32, 4x4, 16 -> 16: 143 -> 3 ms (LinkNet);
    # 4 x 30x40, 8x8, 64 -> 64: 13 -> 0.6 s (SegNet-Basic's learned upsampling).
    whole = all(
        k - 2 * p == s for k, p, s in zip(kernel, padding, strides, strict=True)
    )
    return "phases" if platform == "cpu" and spatial == 1 and whole else "plain"


def conv_upsampled(
    platform: str | None, dtype: Any, size: tuple[int, ...], target: tuple[int, int]
) -> str:
    """Return how to convolve an upsampled map, twice as large, without making it.

    "transposed": a transposed convolution, 4 taps a pixel in place of 9, and no
    concatenation with the skip. "corners": the same, as one plain convolution with
    2x2 taps. "differences" of neighbours at the low resolution: the fewest products,
    the most copies; they lose bits in bfloat16, so they serve float32 and float64.
    Else "plain".
    """
    if target != (2 * size[0], 2 * size[1]):
        return "plain"
    if platform == "tpu":
        return "transposed"
    if platform == "cpu" and target[0] * target[1] >= LARGE:
        # Two cores, 4 images, all gradients, differences -> corners: 128x128 to
        # 256x256, 32 -> 16: 64 -> 30 ms; 64x64 to 128x128, 64 -> 32: 37 -> 24 ms.
        return "corners"
    wide = jnp.dtype(dtype).itemsize >= 4
    return "differences" if platform == "cpu" and wide else "plain"


def fuse(platform: str | None) -> str:
    """Dense layers, resizing, and a 1x1 convolution of all maps, by SegFormer.

    "composed": the convolution goes before the resizing, each map's part of it into the
    map's dense layer. Both are linear, so the result is the same. "plain": as written.
    """
    # mit_b0 at 4 x 256x256: 0.26e9 multiply-adds instead of 4.6e9 a pass.
    return "plain" if platform is None else "composed"


def sample(platform: str | None) -> str:
    """Scale, crop and flip: "plain" (two matrix products) or "gather" (two pixels).

    On two cores 8 x 512x512x3 with labels take 200 ms as products and 20 ms gathered.
    """
    return "gather" if platform == "cpu" else "plain"


def unsort(platform: str | None) -> str:
    """How values of sorted elements go back to their places: "sort" or "scatter".

    A second sort costs Lovasz-softmax as much as its first, on CPUs; a scatter little.
    """
    return "scatter" if platform == "cpu" else "sort"


def window(
    platform: str | None, channels: int, size: tuple[int, int], target: tuple[int, int]
) -> tuple[int, int]:
    """The window in which a convolution of an upsampled map packs its result.

    (1, 1): not at all. ``channels`` of the result, which goes from ``size`` to
    ``target``. Packed (:mod:`segjax.ops.packed`), they fill a TPU's 128 lanes: half of
    a ResNet-50 U-Net's step on a v5e was spent on its last two stages and the loss.
    """
    found = (2, 4) if channels <= 16 else (2, 2)
    fits = target[0] % found[0] == 0 and target[1] % found[1] == 0
    doubled = target == (2 * size[0], 2 * size[1])
    useful = platform == "tpu" and channels <= 32
    return found if useful and doubled and fits else (1, 1)


def stem(
    platform: str | None,
    size: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    spatial: int,
) -> bool:
    """Whether a strided convolution of an image reads it packed: space-to-depth.

    A TPU would put the image's few channels into sublanes and its examples into lanes:
    8 x 512x512 take 2.7 M cycles of a v5e to be laid out so. At 256x256 that costs
    nothing yet, and the maxima of a packed map (ResNet) more than is gained.
    """
    if platform != "tpu" or spatial > 1 or not all(isinstance(n, int) for n in size):
        return False  # an exported program's sizes may be symbols
    odd = kernel[0] == kernel[1] and kernel[0] % 2 == 1
    reach = ((kernel[0] - 1) // 2,) * 2
    fits = strides in ((2, 2), (4, 4)) and not (size[0] % 4 or size[1] % 4)
    few = kernel[2] <= 4 and kernel[3] > 1
    # The product that packs the columns grows with their square.
    large = size[0] * size[1] >= 2**17 and size[1] <= 2**12
    return fits and few and large and odd and kernel[0] <= 7 and padding == 2 * (reach,)


def in_strips(spatial: int, shape: tuple[int, int, int], size: tuple[int, int]) -> bool:
    """Whether scores ``shape`` (h, w, K) become logits strip by strip, for the loss.

    (:mod:`segjax.ops.strips`.) Those of an example are then 8 MiB or more in float32.
    """
    large = size[0] * size[1] * shape[2] >= 2**21
    return large and shape[:2] != tuple(size) and spatial == 1


def pixels(platform: str | None) -> str:
    """How a strip's logits become costs, slopes and predictions: "kept" or "plain".

    "kept" on a TPU: exponentials are written and read again. A reduction over classes
    that writes nothing else takes a TPU twice as long (8 x 512x512 x 150: the loss in
    24.1 M cycles of a v5e, kept in 15.5 M).
    """
    return "kept" if platform == "tpu" else "plain"


def update(platform: str | None) -> str:
    """How a step keeps the old state where an update is not finite.

    "select": old or new, array by array. A TPU fuses it with the update, where a branch
    copies (a resnet50 unet's: 1.0 M cycles). Else "branch": a CPU computes each new
    array anew for every reader.
    """
    return "select" if platform == "tpu" else "branch"


def max_pool(platform: str | None) -> str:
    """Return "plain" (select-and-scatter backward) or "indexed" (75 ms -> 10 ms)."""
    return "indexed" if platform == "cpu" else "plain"


def batch_norm(platform: str | None) -> str:
    """Return "plain", "fused" or "one_pass".

    "fused": a written-out backward that reads x and g twice. "one_pass": statistics
    that read x once, in the same pass as the convolution before.
    """
    return {"cpu": "fused", "tpu": "one_pass"}.get(platform or "", "plain")
