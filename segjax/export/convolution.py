"""``conv_general_dilated`` as ONNX's Conv or ConvTranspose."""

from collections.abc import Sequence

import numpy as np

from segjax.export.graph import Graph, Params, Shape, Value

CHANNELS_FIRST = (0, 3, 1, 2)


def convolution(
    graph: Graph, params: Params, values: Sequence[Value], shapes: Sequence[Shape]
) -> list[Value]:
    """A two-dimensional convolution of [B, H, W, C] by a constant [kh, kw, Ci, Co].

    Raises:
      ValueError: it is of another kind.
    """
    x, kernel = values[0], values[1].array
    numbers = params["dimension_numbers"]
    # Axes of x and result as (batch, channels, rows, columns), of the kernel as (out,
    # in, rows, columns).
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    if kernel is None or specs != (CHANNELS_FIRST, (3, 2, 0, 1), CHANNELS_FIRST):
        raise ValueError("ONNX export convolves [B, H, W, C] by constant kernels only")
    if params["batch_group_count"] != 1:
        raise ValueError("ONNX export has no convolution in groups of the batch")
    groups, padding = params["feature_group_count"], params["padding"]
    options = {"group": groups, "dilations": list(params["rhs_dilation"])}
    if tuple(params["lhs_dilation"]) == (1, 1):
        kind, weights = "Conv", kernel.transpose(3, 2, 0, 1)
        options["strides"] = list(params["window_strides"])
        sides = padding
    else:
        if tuple(params["window_strides"]) != (1, 1):
            raise ValueError("ONNX has no convolution with both kinds of stride")
        kind, weights = "ConvTranspose", _transposed(kernel, groups)
        options["strides"] = list(params["lhs_dilation"])
        # What is left over of a full convolution.
        reach = [
            (k - 1) * d
            for k, d in zip(kernel.shape, params["rhs_dilation"], strict=False)
        ]
        sides = [
            (r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)
        ]
        # More than all of it at the far end: rows that no pixel reaches.
        options["output_padding"] = [max(-high, 0) for _, high in sides]
        sides = [(low, max(high, 0)) for low, high in sides]
    pads = [*(low for low, _ in sides), *(high for _, high in sides)]
    if min(pads) < 0:
        raise ValueError(f"ONNX has no convolution with padding {padding}")
    inputs = [graph.whole(x, CHANNELS_FIRST), graph.initializer(weights)]
    name = graph.add(kind, inputs, pads=pads, kernel_shape=kernel.shape[:2], **options)
    return [Value(shapes[0].dims, name, order=CHANNELS_FIRST)]


def _transposed(kernel: np.ndarray, groups: int) -> np.ndarray:
    """[kh, kw, Ci/groups, Co] -> [Ci, Co/groups, kh, kw], turned round."""
    kh, kw, c_in, c_out = kernel.shape
    turned = kernel[::-1, ::-1].reshape(kh, kw, c_in, groups, c_out // groups)
    return turned.transpose(3, 2, 4, 0, 1).reshape(
        groups * c_in, c_out // groups, kh, kw
    )
