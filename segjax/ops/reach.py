"""Which taps of a convolution see the map at all."""

import jax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def reaching(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, dilation: Pair
) -> tuple[jax.Array, Padding]:
    """The kernel without outer taps that see only padding, and the padding left then.

    Of a dilated one on a small map: with dilation 36 on 16x16 pixels the middle tap.
    """
    bounds, left = [], []
    for axis, (d, s) in enumerate(zip(dilation, strides, strict=True)):
        (low, high), size = padding[axis], x.shape[1 + axis]
        last = kernel.shape[axis] - 1
        reach = (size + low + high - d * last - 1) // s * s  # of the last result
        seen = [t for t in range(last + 1) if -reach <= t * d - low < size] or [0, last]
        first, end = seen[0], seen[-1]
        # Paddings stay positive, as every formulation wants them.
        first = max(min(first, low // d), 0)
        end = min(max(end, last - high // d), last)
        bounds.append(slice(first, end + 1))
        left.append((low - first * d, high - (last - end) * d))
    return kernel[tuple(bounds)], (left[0], left[1])
