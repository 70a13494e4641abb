"""Windows over an image: where they lie, and how their logits are blended.

Rows and columns are laid out apart, so that the windows are a grid. Along each axis
the weights are a partition of unity: for every pixel those of the windows that cover it
sum to 1, and the blend of equal values is that value, without a division.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from segjax import sharding

SIGMA = 0.125
"""Standard deviation of the Gaussian, as a fraction of the window (MONAI's)."""


def window_starts(length: int, window: int, overlap: float, step: int) -> np.ndarray:
    """int64[n]: where windows begin, so that they cover ``length`` pixels.

    Neighbours overlap by at least the fraction ``overlap`` of a window (as far as
    ``step`` allows) and lie evenly. ``length``, ``window`` and every start are
    multiples of ``step``: a network whose stride divides it sees the same grid in every
    window, and in the whole image.
    """
    steps = (length - window) // step
    stride = max(1, int(window * (1 - overlap) / step + 1e-9))
    count = -(-steps // stride) + 1
    return np.arange(count) * steps // max(count - 1, 1) * step


def window_weights(
    length: int, starts: np.ndarray, window: int, margin: int = 0
) -> np.ndarray:
    """float64[n, window]: each window's share of the pixels along one axis.

    A Gaussian about its centre; zero within ``margin`` pixels of its ends, unless
    that end is the image's. Where windows overlap by 2 * margin at least, the shares of
    every pixel sum to 1.
    """
    place = np.arange(window)
    bell = np.exp(-0.5 * ((place + 0.5 - window / 2) / (SIGMA * window)) ** 2)
    weights = np.stack(
        [
            bell
            * ((place >= margin) | (start == 0))
            * ((place < window - margin) | (start + window == length))
            for start in starts
        ]
    )
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + window] += weight
    return weights / np.stack([total[start : start + window] for start in starts])


@dataclass(frozen=True)
class Layout:
    """The windows over a canvas [H, W]: ``corners`` int32[n, 2] (top, left).

    ``rows`` float32[n, h] and ``columns`` float32[n, w] are their weights.
    """

    canvas: tuple[int, int]
    corners: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def layout(
    size: tuple[int, int],
    window: tuple[int, int],
    *,
    overlap: float,
    step: int,
    margin: int = 0,
) -> Layout:
    """Windows over an image, its canvas rounded up to multiples of ``step``.

    The canvas is one window at least.

    Raises:
      ValueError: the overlap is smaller than twice the margin.
    """
    canvas, axes = [], []
    for length, extent in zip(size, window, strict=True):
        length = max(-(-length // step) * step, extent)
        starts = window_starts(length, extent, overlap, step)
        if len(starts) > 1 and extent - np.diff(starts).max() < 2 * margin:
            raise ValueError(
                f"windows of {extent} px that overlap by "
                f"{extent - np.diff(starts).max()} px leave a gap between margins of "
                f"{margin} px; raise eval.overlap or lower eval.margin"
            )
        canvas.append(length)
        axes.append((starts, window_weights(length, starts, extent, margin)))
    (tops, rows), (lefts, columns) = axes
    i, j = (x.reshape(-1) for x in np.indices((len(tops), len(lefts))))
    return Layout(
        (canvas[0], canvas[1]),
        np.stack([tops[i], lefts[j]], -1).astype(np.int32),
        rows[i].astype(np.float32),
        columns[j].astype(np.float32),
    )


def make_blend(mesh: Mesh):
    """The jitted function (canvas, logits, corners, rows, columns) -> canvas.

    ``canvas`` f32[D, H, W, K] holds one sum per device, each over the windows of its
    own, so that no logits travel; their sum is the blend. ``logits`` f32[n, h, w, K],
    ``corners`` i32[n, 2], ``rows`` f32[n, h] and ``columns`` f32[n, w] are split over
    the devices; the canvas is donated.
    """

    def local(canvas, logits, corners, rows, columns):
        def add(i, canvas):
            weight = rows[i][:, None] * columns[i][None, :]
            start = (corners[i, 0], corners[i, 1], jnp.zeros((), corners.dtype))
            part = weight[..., None] * logits[i]
            old = jax.lax.dynamic_slice(canvas, start, part.shape)
            return jax.lax.dynamic_update_slice(canvas, old + part, start)

        return jax.lax.fori_loop(0, logits.shape[0], add, canvas[0])[None]

    split = P(sharding.BATCH_AXES)
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(split,) * 5, out_specs=split, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=0)
