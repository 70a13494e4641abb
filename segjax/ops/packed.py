"""Maps whose 2x2 neighbours lie side by side in the channels.

A map of 16 channels fills 16 of a TPU's 128 lanes, and memory and time are those of
128. Held as [B, H/2, W/2, 4 * 16] it fills 64. A 3x3 convolution of the fine map is one
of the packed map too, with a larger kernel that is built from the ordinary one inside
the step: parameters, checkpoints and results stay the same.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PHASES = 4
"""Of a 2x2 square, in row order: the place of a pixel in its square."""

LANES = 128
"""Of a TPU's vector registers: the last dimension is padded to a multiple."""


@flax.struct.dataclass
class Packed:
    """``array`` [B, H/2, W/2, 4 * C] stands for a map [B, H, W, C].

    Channel c of phase p (PHASES) is ``array``'s channel p * C + c.
    """

    array: jax.Array

    @property
    def channels(self) -> int:
        """C, of the map that it stands for."""
        return self.array.shape[3] // PHASES

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the map that it stands for."""
        return 2 * self.array.shape[1], 2 * self.array.shape[2]


def pack(x: jax.Array) -> Packed:
    """The packed form of x[B, H, W, C]; H and W are even."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return Packed(x.reshape(b, h // 2, w // 2, PHASES * c))


def unpack(x: Packed) -> jax.Array:
    """The map [B, H, W, C]."""
    b, h, w, _ = x.array.shape
    y = x.array.reshape(b, h, w, 2, 2, x.channels).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h, 2 * w, x.channels)


def _selection() -> np.ndarray:
    """[3 offsets, 2 source phases, 2 target phases, 3 taps] of zeros and ones.

    In one dimension pixel 2 i + d takes tap t from 2 i + d + t - 1 = 2 (i + o - 1) + s.
    """
    o, s, d, t = np.ogrid[:3, :2, :2, :3]
    return (d + t - 1 == 2 * (o - 1) + s).astype(np.float32)


def _transform(kernel: jax.Array, rule: str) -> jax.Array:
    """The selection on both axes of kernel[3, 3, Ci, Co]; exact on every platform."""
    one = jnp.asarray(_selection(), kernel.dtype)
    return jnp.einsum(rule, one, one, kernel, precision=lax.Precision.HIGHEST)


def packed_kernel(kernel: jax.Array) -> jax.Array:
    """[3, 3, 4 Ci, 4 Co] from packed to packed, for kernel[3, 3, Ci, Co]."""
    c_in, c_out = kernel.shape[2:]
    big = _transform(kernel, "osdt,pzeu,tuab->opszadeb")
    return big.reshape(3, 3, PHASES * c_in, PHASES * c_out)


def upsampling_kernel(kernel: jax.Array) -> jax.Array:
    """[3, 3, Ci, 4 Co] from a map to the packed convolution of it upsampled.

    Upsampling (nearest) gives all four phases the same pixel: their weights add up.
    """
    c_in, c_out = kernel.shape[2:]
    big = _transform(kernel, "osdt,pzeu,tuab->opadeb")
    return big.reshape(3, 3, c_in, PHASES * c_out)


def _conv(x, kernel):
    side = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((side, side), (side, side)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv(x: Packed, kernel: jax.Array) -> Packed:
    """Convolve with kernel[k, k, Ci, Co], k 3 (padding 1) or 1, at stride 1."""
    if kernel.shape[:2] == (1, 1):
        eye = jnp.eye(PHASES, dtype=kernel.dtype)
        big = jnp.einsum("pq,ab->paqb", eye, kernel[0, 0], precision="highest")
        size = (1, 1, PHASES * kernel.shape[2], PHASES * kernel.shape[3])
        return Packed(_conv(x.array, big.reshape(size)))
    return Packed(_conv(x.array, packed_kernel(kernel)))


def conv_upsampled(x: jax.Array, kernel: jax.Array) -> Packed:
    """Convolve x[B, h, w, C], upsampled twice (nearest), with kernel[3, 3, Ci, Co]."""
    return Packed(_conv(x, upsampling_kernel(kernel)))


def add_bias(x: Packed, bias: jax.Array) -> Packed:
    """Add bias[C]."""
    return Packed(x.array + jnp.tile(bias, PHASES)[None, None, None, :])


def filled(channels: int) -> int:
    """The channels, at least so many, with which four phases fill their lanes."""
    part = LANES // PHASES
    return -(-channels // part) * part
