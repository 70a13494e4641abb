"""Maps whose neighbouring pixels lie side by side in the channels.

A map of 16 channels fills 16 of a TPU's 128 lanes, and memory and time are those of
128. Held as [B, H/2, W/4, 8 * 16] it fills them all. A convolution of the fine map is
one of the packed map too, with a larger kernel that is built from the ordinary one
inside the step: parameters, checkpoints and results stay the same.
"""

import itertools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.ops.shift import shift

Window = tuple[int, int]

EXACT = lax.Precision.HIGHEST
"""Of products with zeros and ones: TPUs would round float32 to bfloat16 otherwise."""

LANES = 128
"""Of a TPU's vector registers: the last dimension is padded to a multiple."""


@flax.struct.dataclass
class Packed:
    """``array`` [B, H/r, W/c, r * c * C] stands for a map [B, H, W, C].

    ``window`` is (r, c). Its pixels follow each other in row order, each with its C
    channels.
    """

    array: jax.Array
    window: Window = flax.struct.field(pytree_node=False, default=(1, 1))

    @property
    def phases(self) -> int:
        """How many pixels share a place."""
        return self.window[0] * self.window[1]

    @property
    def channels(self) -> int:
        """C, of the map that it stands for."""
        return self.array.shape[3] // self.phases

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the map that it stands for."""
        rows, columns = self.window
        return rows * self.array.shape[1], columns * self.array.shape[2]


def pack(x: jax.Array | Packed, window: Window) -> Packed:
    """The map x[B, H, W, C], or a packed one, in another window, which divides H, W."""
    if isinstance(x, Packed):
        if x.window == window:
            return x
        rows, columns = x.window[0] // window[0], x.window[1] // window[1]
        if x.window == (rows * window[0], columns * window[1]):
            return _split(x, window, rows, columns)
        x = unpack(x)
    (b, h, w, c), (r, s) = x.shape, window
    x = x.reshape(b, h // r, r, w // s, s, c).transpose(0, 1, 3, 2, 4, 5)
    return Packed(x.reshape(b, h // r, w // s, r * s * c), window)


def pack_image(x: jax.Array, window: Window) -> Packed:
    """As :func:`pack`, of few channels: columns go to their places by a product.

    With zeros and ones, so finite values come out exactly (NaN and infinity spread over
    their row). A TPU has columns in its lanes and moves them there one by one: 8 x
    512x512x3 take two copies of 3.1 M cycles of a v5e, this way 0.2 M.
    """
    (b, h, w, c), (r, s) = x.shape, window
    apart = np.eye(w).reshape(w, w // s, s).swapaxes(1, 2)  # column, phase, place
    y = jnp.einsum("bhwc,wqj->bhcqj", x, jnp.asarray(apart, x.dtype), precision=EXACT)
    y = y.reshape(b, h // r, r, c, s, w // s).transpose(0, 1, 5, 2, 4, 3)
    return Packed(y.reshape(b, h // r, w // s, r * s * c), window)


def _split(x: Packed, window: Window, rows: int, columns: int) -> Packed:
    """From a window to one that is ``rows`` x ``columns`` times as small."""
    (b, h, w, _), (r, s) = x.array.shape, window
    y = x.array.reshape(b, h, w, rows, r, columns, s, x.channels)
    y = y.transpose(0, 1, 3, 2, 5, 4, 6, 7)
    return Packed(y.reshape(b, h * rows, w * columns, r * s * x.channels), window)


def unpack(x: Packed) -> jax.Array:
    """The map [B, H, W, C]."""
    return _split(x, (1, 1), *x.window).array


class _Axis(NamedTuple):
    """One axis of a convolution between packed maps.

    Pixel target * i + d takes, with tap t, the pixel strides * d + t - (taps - 1) / 2
    of the map upsampled by ``factor``, counted from its place step * i on.
    """

    source: int
    target: int
    factor: int
    strides: int
    taps: int

    @property
    def padding(self) -> int:
        return (self.taps - 1) // 2

    @property
    def step(self) -> int:
        """The strides of the convolution of places."""
        return self.strides * self.target // (self.factor * self.source)

    def _place(self, pixel: int) -> int:
        return pixel // self.factor // self.source

    @property
    def sides(self) -> tuple[int, int]:
        """Places that it reaches before its own, and after the last of its own."""
        last = self.strides * (self.target - 1) + self.taps - 1 - self.padding
        return -self._place(-self.padding), self._place(last) + 1 - self.step

    def selection(self) -> np.ndarray:
        """[places, source phases, target phases, taps] of zeros and ones."""
        before, after = self.sides
        o, s, d, t = np.ogrid[
            -before : self.step + after, : self.source, : self.target, : self.taps
        ]
        at = (self.strides * d + t - self.padding) // self.factor
        return (at == self.source * o + s).astype(np.float32)


def _axes(kernel, source: Window, target: Window, factor: int, strides: int):
    rows, columns = (
        _Axis(source[i], target[i], factor, strides, kernel.shape[i]) for i in (0, 1)
    )
    return rows, columns


def transform(
    kernel: jax.Array,
    source: Window,
    target: Window,
    factor: int = 1,
    strides: int = 1,
) -> jax.Array:
    """kernel[k, k, Ci, Co] as one between packed maps: [kh, kw, s * Ci, t * Co].

    Pixels that a map was upsampled from (nearest) stand for several: their weights add
    up.
    """
    c_in, c_out = kernel.shape[2:]
    rows, columns = (
        jnp.asarray(axis.selection(), kernel.dtype)
        for axis in _axes(kernel, source, target, factor, strides)
    )
    big = jnp.einsum("osdt,pzeu,tuab->opszadeb", rows, columns, kernel, precision=EXACT)
    phases_in, phases_out = source[0] * source[1], target[0] * target[1]
    return big.reshape(*big.shape[:2], phases_in * c_in, phases_out * c_out)


def conv(
    x: jax.Array | Packed,
    kernel: jax.Array,
    window: Window,
    *,
    factor: int = 1,
    strides: int = 1,
) -> Packed:
    """Convolve x, upsampled ``factor`` times (nearest), with kernel[k, k, Ci, Co].

    k is odd and the padding (k - 1) / 2. ``strides`` divide the size, and the result's
    ``window`` times the strides is a multiple of ``factor`` times the window of ``x``.
    """
    x = x if isinstance(x, Packed) else Packed(x)
    rows, columns = _axes(kernel, x.window, window, factor, strides)
    y = lax.conv_general_dilated(
        x.array,
        transform(kernel, x.window, window, factor, strides),
        (rows.step, columns.step),
        (rows.sides, columns.sides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return Packed(y, window)


# Rows of a 3x3 window at stride 2 around pixel 2 * i: the phase that holds each, and
# how many places before its own.
_TAPS = ((1, 1), (0, 0), (1, 0))


@jax.custom_vjp
def max_pool(x: Packed) -> jax.Array:
    """Maximum over 3x3 windows at stride 2, padding 1, of a map in window (2, 2).

    The gradient goes to the first maximum of each window in row order. Returns
    [B, H/2, W/2, C].
    """
    return _maxima(x)[0]


def _maxima(x: Packed) -> tuple[jax.Array, jax.Array]:
    """The maxima, and the number of the first tap that has it, uint8."""
    phases = jnp.split(x.array, 4, 3)
    taps = []
    for row, column in itertools.product(_TAPS, _TAPS):
        tap = phases[2 * row[0] + column[0]]
        for axis, (_, count) in enumerate((row, column), 1):
            tap = shift(tap, count, axis, -jnp.inf)
        taps.append(tap)
    best, first = taps[0], jnp.zeros(taps[0].shape, jnp.uint8)
    for number, tap in enumerate(taps[1:], 1):
        first = jnp.where(tap > best, jnp.uint8(number), first)
        best = jnp.maximum(best, tap)
    return best, first


def _max_pool_forward(x: Packed):
    return _maxima(x)


def _max_pool_backward(first, g):
    phases: list[Any] = [None] * 4
    for number, (row, column) in enumerate(itertools.product(_TAPS, _TAPS)):
        part = jnp.where(first == number, g, jnp.zeros((), g.dtype))
        for axis, (_, count) in enumerate((row, column), 1):
            part = shift(part, -count, axis)
        phase = 2 * row[0] + column[0]
        phases[phase] = part if phases[phase] is None else phases[phase] + part
    return (Packed(jnp.concatenate(phases, 3), (2, 2)),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def add_bias(x: Packed, bias: jax.Array) -> Packed:
    """Add bias[C]."""
    return Packed(_add(x.array, jnp.tile(bias, x.phases)), x.window)


@jax.custom_vjp
def _add(array, bias):
    return array + bias[None, None, None, :]


def _add_backward(bias, g):
    # The sum over pixels as a product. As a reduction XLA fuses it with what makes g,
    # and then no longer that with the loss, which costs another pass over all lanes.
    g, ones = lax.optimization_barrier((g, jnp.ones((*g.shape[:3], 8), g.dtype)))
    wide = jnp.promote_types(g.dtype, jnp.float32)
    sums = jnp.einsum("bhwo,bhwl->ol", ones, g, preferred_element_type=wide)
    return g, sums[0].astype(bias.dtype)


_add.defvjp(lambda array, bias: (_add(array, bias), bias), _add_backward)


def filled(channels: int, phases: int) -> int:
    """The channels, at least so many, with which the phases fill their lanes."""
    part = max(LANES // phases, 1)
    return -(-channels // part) * part
