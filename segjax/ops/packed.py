"""Maps whose neighbouring pixels lie side by side in the channels.

A map of 16 channels fills 16 of a TPU's 128 lanes, and memory and time are those of
128. Held as [B, H/2, W/4, 8 * 16] it fills them all. A convolution of the fine map is
one of the packed map too, with a larger kernel that is built from the ordinary one
inside the step: parameters, checkpoints and results stay the same.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Window = tuple[int, int]

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


def _split(x: Packed, window: Window, rows: int, columns: int) -> Packed:
    """From a window to one that is ``rows`` x ``columns`` times as small."""
    (b, h, w, _), (r, s) = x.array.shape, window
    y = x.array.reshape(b, h, w, rows, r, columns, s, x.channels)
    y = y.transpose(0, 1, 3, 2, 5, 4, 6, 7)
    return Packed(y.reshape(b, h * rows, w * columns, r * s * x.channels), window)


def unpack(x: Packed) -> jax.Array:
    """The map [B, H, W, C]."""
    return _split(x, (1, 1), *x.window).array


def _selection(source: int, target: int, factor: int, taps: int) -> np.ndarray:
    """[offsets, source phases, target phases, taps] of zeros and ones, for one axis.

    Pixel target * i + d of the convolution takes, with tap t, the pixel at d + t -
    (taps - 1) / 2 of the map upsampled by ``factor``; that is phase s of the packed
    source at stride * i + o - 1, where stride = target / (factor * source).
    """
    offsets = target // (factor * source) + 2
    o, s, d, t = np.ogrid[:offsets, :source, :target, :taps]
    at = (d + t - (taps - 1) // 2) // factor
    return (at == source * (o - 1) + s).astype(np.float32)


def transform(
    kernel: jax.Array, source: Window, target: Window, factor: int = 1
) -> jax.Array:
    """kernel[k, k, Ci, Co] as one between packed maps: [kh, kw, s * Ci, t * Co].

    Its strides are target / (factor * source), its padding 1 at the top and the left
    and what is missing at the other ends. Pixels that a map was upsampled from
    (nearest) stand for several: their weights add up.
    """
    k, _, c_in, c_out = kernel.shape
    rows, columns = (
        jnp.asarray(_selection(source[i], target[i], factor, k), kernel.dtype)
        for i in (0, 1)
    )
    # Exact on every platform: TPUs would round to bfloat16 otherwise.
    big = jnp.einsum(
        "osdt,pzeu,tuab->opszadeb", rows, columns, kernel, precision="highest"
    )
    phases_in, phases_out = source[0] * source[1], target[0] * target[1]
    return big.reshape(*big.shape[:2], phases_in * c_in, phases_out * c_out)


def conv(
    x: jax.Array | Packed, kernel: jax.Array, window: Window, *, factor: int = 1
) -> Packed:
    """Convolve x, upsampled ``factor`` times (nearest), with kernel[k, k, Ci, Co].

    k is 1 or 3, the padding keeps the size, the result has ``window``, a multiple of
    ``factor`` times the window of ``x``.
    """
    x = x if isinstance(x, Packed) else Packed(x)
    strides = [window[i] // (factor * x.window[i]) for i in (0, 1)]
    y = lax.conv_general_dilated(
        x.array,
        transform(kernel, x.window, window, factor),
        strides,
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return Packed(y, window)


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
