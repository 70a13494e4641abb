"""A depthwise, then a pointwise convolution, whose taps lie far off in the rows."""

import jax

from segjax.ops.conv import conv2d
from segjax.ops.shift import shift


def separable_by_rows(
    x: jax.Array, depthwise: jax.Array, pointwise: jax.Array, dilation: int
) -> jax.Array:
    """x[B, H, W, C], depthwise[k, k, 1, C], pointwise[1, 1, C, F] -> [B, H, W, F].

    Stride 1, k odd, as many pixels out as in. A row of the depthwise kernel after the
    other, each with the pointwise convolution after it; then what they give is shifted
    by rows and added: devices that share the rows exchange F channels, not C (of a
    resnet50's ASPP 256 of 2,048), for as many pointwise convolutions as rows.
    """
    middle = depthwise.shape[0] // 2
    reach = dilation * (depthwise.shape[1] // 2)
    parts = []
    for i in range(depthwise.shape[0]):
        count = dilation * (middle - i)
        if abs(count) >= x.shape[1]:  # further off a row sees the padding only
            continue
        y = conv2d(
            x,
            depthwise[i : i + 1],
            padding=((0, 0), (reach, reach)),
            dilation=(1, dilation),
            groups=x.shape[3],
        )
        parts.append(shift(conv2d(y, pointwise), count, 1))
    return sum(parts[1:], parts[0])
