"""Two-dimensional convolution, also of upsampled maps."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from segjax.ops import filter_gradient, patches, table, winograd
from segjax.ops.apart import apart
from segjax.ops.beside import beside, result_size
from segjax.ops.depthwise import depthwise
from segjax.ops.reach import Padding, Pair, reaching
from segjax.ops.resize import resize_nearest
from segjax.ops.shift import picked, shift

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def pair(value: int | Sequence[int]) -> Pair:
    """An int for both image axes, or two ints."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second


def both_sides(padding: int | Sequence) -> Padding:
    """Padding as ((top, bottom), (left, right)) from an int, (h, w) or itself."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    rows, columns = padding
    return pair(rows), pair(columns)


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: int | Sequence = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    platform: str | None = None,
    spatial: int = 1,
) -> jax.Array:
    """Convolve x[B, H, W, Ci] with kernel[kh, kw, Ci/groups, Co] as torch.nn.Conv2d.

    ``padding`` is an int, (rows, columns) or ((top, bottom), (left, right)) zeros.
    Returns [B, Ho, Wo, Co] in the dtype of ``x``. ``platform`` picks the formulation
    (None: plain), also by the number of devices that share the rows (``spatial``). All
    formulations are differentiable in reverse mode; forward mode needs the plain one.
    """
    strides, dilation, padding = pair(strides), pair(dilation), both_sides(padding)
    if table.picked(spatial, x.shape[1:3], kernel.shape, strides, padding):
        x, strides = picked(x, strides), (1, 1)
    if platform is not None:
        kernel, padding = reaching(x, kernel, strides, padding, dilation)
    size, shape = (x.shape[1], x.shape[2]), kernel.shape
    chosen = table.conv(
        platform, x.dtype, size, shape, strides, padding, groups, dilation, spatial
    )
    if chosen == "rows":
        return _rows(x, kernel, padding[1], dilation, groups)
    if chosen == "depthwise":
        return depthwise(strides, padding, dilation, x, kernel)
    if chosen == "dot":
        return _dot(x, kernel, strides)
    if chosen == "blocks":
        return _blocks(x, kernel)
    if chosen == "patches":
        return _patches(x, kernel, strides, padding, dilation)
    if chosen in filter_gradient.FORMULATIONS:
        return _conv_gemm(strides, padding, dilation, chosen, x, kernel)
    if platform == "cpu" and groups == 1:
        return _shared(x, kernel, strides, padding, dilation)
    return _plain(x, kernel, strides, padding, dilation, groups)


def _plain(x, kernel, strides, padding, dilation, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def _shared(x, kernel, strides, padding, dilation):
    """One group on a CPU: in pieces side by side where all cores need them.

    And padded on the right where it has no padding at all.
    """
    size = result_size(x, kernel, strides, padding, dilation)
    count, parts = table.beside(x.dtype, x.shape[0], size, kernel.shape, dilation)
    # XLA:CPU is slow without any padding (speed_gradients.json): beside() has some.
    bare = strides == (1, 1) and not any(map(sum, padding)) and kernel.shape[1] > 1
    if (count, parts) == (1, 1) and not bare:
        return _plain(x, kernel, strides, padding, dilation)
    return beside(x, kernel, strides, padding, dilation, count, parts)


def _rows(x, kernel, columns, dilation, groups):
    """Stride 1, as many rows out as in: a convolution by each row of the kernel."""
    middle = kernel.shape[0] // 2
    counts = [dilation[0] * (middle - i) for i in range(kernel.shape[0])]
    parts = [
        _plain(
            shift(x, count, 1),
            kernel[i : i + 1],
            (1, 1),
            ((0, 0), columns),
            (1, dilation[1]),
            groups,
        )
        for i, count in enumerate(counts)
        if abs(count) < x.shape[1]  # further off a row sees the padding only
    ]
    return sum(parts[1:], parts[0])


def _dot(x, kernel, strides):
    """A 1x1 convolution: the strided pixels times a matrix."""
    x = x[:, :: strides[0], :: strides[1]]
    if table.narrow_first(x.shape[1:], kernel.shape[3]):
        return _reducing(x, kernel[0, 0])
    return _over_channels(x, kernel[0, 0])


@jax.custom_vjp
def _reducing(x, matrix):
    """To fewer channels; the matrix' gradient by the product that is faster."""
    return _over_channels(x, matrix)


def _reducing_forward(x, matrix):
    return _over_channels(x, matrix), (x, matrix)


def _reducing_backward(residuals, g):
    x, matrix = residuals
    with jax.named_scope("filter_gradient"):
        gradient = filter_gradient.narrow_first(x, g)
    with jax.named_scope("input_gradient"):
        return _over_channels(g, matrix.T), gradient.astype(matrix.dtype)


_reducing.defvjp(_reducing_forward, _reducing_backward)


def _blocks(x, kernel):
    """Stride and kernel alike, no padding: each block's pixels times a matrix."""
    (b, h, w, _), (kh, kw, c_in, c_out) = x.shape, kernel.shape
    x = x.reshape(b, h // kh, kh, w // kw, kw, c_in).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h // kh, w // kw, kh * kw * c_in)
    return _over_channels(x, kernel.reshape(-1, c_out))


def _patches(x, kernel, strides, padding, dilation):
    """Every tap's pixels side by side in the channels, then one product with them.

    For maps of one or two columns, where XLA:CPU falls back to plain loops.
    """
    kh, kw, c_in, c_out = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    taps = []
    for i in range(kh):
        for j in range(kw):
            last = [
                x.shape[axis + 1] - (k - 1 - at) * dilation[axis]
                for axis, (k, at) in enumerate(((kh, i), (kw, j)))
            ]
            rows = slice(i * dilation[0], last[0], strides[0])
            taps.append(x[:, rows, j * dilation[1] : last[1] : strides[1]])
    return _over_channels(
        jnp.concatenate(taps, 3), kernel.reshape(kh * kw * c_in, c_out)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _conv_gemm(strides, padding, dilation, formulation, x, kernel):
    """One group; the filter gradient by ``formulation``, and all of "winograd"."""
    if formulation == "winograd":
        # Outside of what is apart, where models.compute_ahead finds it.
        taps = winograd.at_points(kernel)
        return apart(partial(winograd.convolve_taps, dilation=dilation), x, taps)
    return _shared(x, kernel, strides, padding, dilation)


def _conv_gemm_forward(strides, padding, dilation, formulation, x, kernel):
    if formulation == "winograd":  # taps within: those of all layers live shortly
        y = apart(partial(winograd.convolve, dilation=dilation), x, kernel)
        return y, (x, kernel)
    return _shared(x, kernel, strides, padding, dilation), (x, kernel)


def _conv_gemm_backward(strides, padding, dilation, formulation, residuals, g):
    x, kernel = residuals
    gradient = filter_gradient.FORMULATIONS[formulation]
    # Apart, or else every shifted copy computes what made x and g anew.
    shape = kernel.shape
    with jax.named_scope("filter_gradient"):
        dk = apart(lambda x, g: gradient(x, g, shape, strides, padding, dilation), x, g)
    with jax.named_scope("input_gradient"):
        if formulation == "winograd":
            turned = partial(winograd.convolve, dilation=dilation, adjoint=True)
            dx = apart(turned, g, kernel)
        else:
            dx = _input_gradient(x, kernel, g, strides, padding, dilation)
    return dx, dk.astype(kernel.dtype)


def _input_gradient(x, kernel, g, strides, padding, dilation):
    """Of stride 1: the convolution of ``g`` with the kernel turned about."""
    reach = [dilation[i] * (kernel.shape[i] - 1) for i in (0, 1)]
    if strides == (1, 1) and all(
        max(sides) <= r for sides, r in zip(padding, reach, strict=True)
    ):
        opposite = tuple(
            (r - low, r - high) for (low, high), r in zip(padding, reach, strict=True)
        )
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        return _shared(g, turned, (1, 1), opposite, dilation)
    # Linear in x: the pull-back needs no value of the forward pass, which XLA drops.
    return jax.vjp(lambda x: _plain(x, kernel, strides, padding, dilation), x)[1](g)[0]


_conv_gemm.defvjp(_conv_gemm_forward, _conv_gemm_backward)


def _over_channels(x, matrix):
    """x[B, H, W, Ci] times matrix[Ci, Co]; two dimensions as in filter_gradient."""
    y = lax.dot(x.reshape(-1, x.shape[3]), matrix)
    return y.reshape(*x.shape[:3], matrix.shape[1])


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    platform: str | None = None,
    spatial: int = 1,
) -> jax.Array:
    """Transposed convolution, torch.nn.ConvTranspose2d without output_padding.

    x[B, h, w, Ci], kernel[kh, kw, Ci, Co] -> [B, (h - 1) * s - 2 * padding + kh, .,
    Co]. Where the kernel is as large as the stride the patches do not overlap, and one
    product makes them. Others as ``platform`` and ``spatial`` (see :func:`conv2d`) say.
    """
    strides, padding = pair(strides), pair(padding)
    kh, kw, c_in, c_out = kernel.shape
    if (kh, kw) == strides and padding == (0, 0):
        b, h, w, _ = x.shape
        y = _over_channels(x, kernel.transpose(2, 0, 1, 3).reshape(c_in, -1))
        return _spread(y, strides)
    if table.conv_transpose(platform, spatial, (kh, kw), strides, padding) == "phases":
        return _phases(x, kernel, strides, padding, platform)
    return patches.adjoint(x, kernel, strides, padding)


def _corners(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Pair, platform: str | None
) -> jax.Array:
    """A transposed convolution whose kernel is t times its stride s, along each axis.

    The s result pixels from s * m - padding on see the same t inputs, up to the m-th.
    So one plain convolution with t taps gives the s x s pixels of each such place.
    """
    (kh, kw, c_in, c_out), (sh, sw) = kernel.shape, strides
    th, tw = kh // sh, kw // sw
    taps = kernel.reshape(th, sh, tw, sw, c_in, c_out)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(th, tw, c_in, sh * sw * c_out)
    y = conv2d(x, taps, padding=(th - 1, tw - 1), platform=platform)
    y, (top, left) = _spread(y, strides), padding
    return y[:, top : y.shape[1] - top, left : y.shape[2] - left]


def _spread(y, strides):
    """[B, h, w, sh * sw * C] -> [B, h * sh, w * sw, C]: the pixels of each place."""
    (b, h, w, c), (sh, sw) = y.shape, strides
    y = y.reshape(b, h, w, sh, sw, c // (sh * sw)).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, h * sh, w * sw, c // (sh * sw))


def _phases(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Pair, platform: str | None
) -> jax.Array:
    """A transposed convolution to s times the size, kernels of s + 2 * padding.

    Result pixel s * q + r sees input q + d by the kernel's tap r + padding - s * d, so
    one plain convolution gives the s x s pixels of each q, its kernel having the taps
    of all r side by side (zeros where d reaches further than the kernel).
    """
    b, h, w, c_in = x.shape
    reach, taps = [], kernel
    for axis, (s, p) in enumerate(zip(strides, padding, strict=True)):
        size, far = kernel.shape[axis], (strides[axis] + p - 1) // s
        offset = jnp.arange(-far, far + 1)[:, None]
        wanted = jnp.arange(s)[None, :] + p - s * offset
        there = (wanted >= 0) & (wanted < size)
        wanted = jnp.where(there, wanted, size)  # of the row of zeros
        sides = [(0, int(i == 2 * axis)) for i in range(taps.ndim)]
        taps = jnp.take(jnp.pad(taps, sides), wanted, axis=2 * axis)
        reach.append(far)
    (sh, sw), c_out = strides, kernel.shape[3]
    # taps[dh, sh, dw, sw, Ci, Co]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(
        2 * reach[0] + 1, 2 * reach[1] + 1, c_in, sh * sw * c_out
    )
    return _spread(conv2d(x, taps, padding=reach, platform=platform), strides)


def conv_upsampled(
    x: jax.Array,
    skip: jax.Array | None,
    kernel: jax.Array,
    size: tuple[int, int],
    *,
    platform: str | None = None,
) -> jax.Array:
    """3x3 convolution (padding 1) of concat(nearest-upsampled x, skip).

    x[B, h, w, Cx], skip[B, *size, Cs] or None, kernel[3, 3, Cx + Cs, Co] of any dtype,
    ``size`` the target's height and width. Returns [B, *size, Co], the dtype of ``x``.
    """
    dtype = x.dtype
    chosen = table.conv_upsampled(platform, dtype, x.shape[1:3], size)
    if chosen == "plain":
        x = resize_nearest(x, size)
        if skip is not None:
            x = jnp.concatenate([x, skip], 3)
        return conv2d(x, kernel.astype(dtype), padding=1, platform=platform)
    taps, rest = kernel[:, :, : x.shape[3]], kernel[:, :, x.shape[3] :].astype(dtype)
    if chosen == "differences":
        y = _differences(x, taps.astype(dtype))
    elif chosen == "corners":
        taps = _doubled(taps[::-1, ::-1]).astype(dtype)
        y = _corners(x, taps, (2, 2), (1, 1), platform)
    else:  # turned about twice, so not at all: a reversal is stored
        y = patches.summed(x, _doubled(taps).astype(dtype), (2, 2), (1, 1))
    return y if skip is None else y + conv2d(skip, rest, padding=1, platform=platform)


def _doubled(kernel):
    """[4, 4, Ci, Co]: the 3x3 kernel summed over the 2x2 pixels that repeat a low one.

    Turned about, it is the patch that the low pixel gives, transposed, at stride 2: 4
    taps a pixel in place of 9.
    """
    taps = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    for axis in (0, 1):
        before, after = [(0, 0)] * 4, [(0, 0)] * 4
        before[axis], after[axis] = (1, 0), (0, 1)
        taps = jnp.pad(taps, before) + jnp.pad(taps, after)
    return taps.astype(kernel.dtype)


def _differences(x, kernel):
    """Nine products at the low resolution where upsampling first takes 36.

    In one dimension, with d[i] = x[i] - x[i-1] and x zero outside, the three taps
    (a, b, c) on the upsampled x give y[2i] = (a+b+c) x[i] - a d[i] and
    y[2i+1] = (a+b+c) x[i] + c d[i+1]; two dimensions are the tensor product.
    """
    _, height, width, _ = x.shape
    a, b, c = kernel[0], kernel[1], kernel[2]
    row_taps = {"all": a + b + c, "first": -a, "last": c}
    taps = {
        (r, s): {"all": k[0] + k[1] + k[2], "first": -k[0], "last": k[2]}[s]
        for r, k in row_taps.items()
        for s in row_taps
    }

    def step(x, axis):
        low, high = [(0, 0)] * 4, [(0, 0)] * 4
        low[axis], high[axis] = (1, 0), (0, 1)
        return jnp.pad(x, high) - jnp.pad(x, low)

    down, right = step(x, 1), step(x, 2)
    both = step(down, 2)
    source = {
        (r, s): [[x, right], [down, both]][r != "all"][s != "all"] for r, s in taps
    }
    begin = {"all": 0, "first": 0, "last": 1}
    product = {
        (r, s): _over_channels(
            source[r, s][:, begin[r] : begin[r] + height, begin[s] : begin[s] + width],
            taps[r, s],
        )
        for r, s in taps
    }
    phases = [
        product["all", "all"] + product[r, "all"] + product["all", s] + product[r, s]
        for r in ("first", "last")
        for s in ("first", "last")
    ]
    y = jnp.stack(phases, 3)
    return _spread(y.reshape(*y.shape[:3], 4 * kernel.shape[3]), (2, 2))
