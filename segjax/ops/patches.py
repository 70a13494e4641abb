"""Transposed convolutions as XLA writes them: each pixel of x adds a patch."""

from functools import partial
from typing import Any

import jax
from jax import lax

from segjax.ops.reach import Pair


def adjoint(x, kernel, strides, padding):
    """Zeros between the pixels of x, and the kernel turned about."""
    return between_zeros(x, kernel[::-1, ::-1], strides, padding)


def between_zeros(x, kernel, strides, padding):
    """The same for a kernel that is turned about already."""
    opposite = tuple(
        (k - 1 - p, k - 1 - p) for k, p in zip(kernel.shape[:2], padding, strict=True)
    )
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        opposite,
        lhs_dilation=strides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def summed(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Pair) -> jax.Array:
    """:func:`between_zeros`, with the filter gradient of a strided convolution.

    For XLA's own, libtpu 0.0.42 turns the map about that the gradient is of.
    """
    return _summed(strides, padding, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(strides, padding, x, kernel) -> Any:
    return between_zeros(x, kernel, strides, padding)


def _forward(strides, padding, x, kernel):
    return between_zeros(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, kept, g):
    x, kernel = kept
    (dx,) = jax.linear_transpose(
        lambda x: between_zeros(x, kernel, strides, padding), x
    )(g)
    # The sum over examples and pixels i of x[i] * g[strides * i + tap - padding].
    turned = lax.conv_general_dilated(
        g,
        x,
        (1, 1),
        [(p, p) for p in padding],
        rhs_dilation=strides,
        dimension_numbers=lax.ConvDimensionNumbers(
            (3, 0, 1, 2), (3, 0, 1, 2), (3, 2, 0, 1)
        ),
    )
    return dx, turned[::-1, ::-1].astype(kernel.dtype)


_summed.defvjp(_forward, _backward)
