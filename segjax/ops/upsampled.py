"""Loss and counts on scores of a lower resolution, without the upsampled scores.

Logits at the image's size are large: 150 classes at 512x512, 16 images, are 2.5 GB.
Here a strip of rows at a time is upsampled (bilinear), compared with its labels, and
left again, with the gradient already taken back to the low resolution. Upsampling by a
whole factor f repeats its weights every f pixels, so each of the f * f pixels that lie
around a score ("phase") is a sum of shifted scores times constants.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.batch import IGNORE
from segjax.ops import lanes
from segjax.ops.cross_entropy import reduce_dtype
from segjax.ops.packed import LANES

STRIP = 2**24
"""Bytes of one phase of a strip of upsampled scores, at most: some fit a TPU's VMEM."""


def factor_of(size: tuple[int, int], target: tuple[int, int]) -> int | None:
    """f, if ``target`` is f times ``size`` on both axes, f a whole number above 1."""
    factor = target[0] // size[0]
    whole = target == (factor * size[0], factor * size[1])
    return factor if whole and factor > 1 else None


def _taps(factor: int) -> np.ndarray:
    """[f, 3]: the weights of scores i - 1, i, i + 1 in pixel f * i + phase.

    Half-pixel coordinates, torch's align_corners=False; edges repeat.
    """
    offset = (np.arange(factor) + 0.5) / factor - 0.5
    before, after = np.maximum(-offset, 0), np.maximum(offset, 0)
    return np.stack([before, 1 - before - after, after], 1)


def _side_by_side(classes: int, factor: int) -> tuple[int, int]:
    """(P, L): how many pixels of a row share the lanes, and the lanes of each.

    Two or four pixels where that many fit, else one with just its classes.
    """
    for phases in (4, 2):
        if factor % phases == 0 and phases * classes <= LANES:
            return phases, LANES // phases
    return 1, classes


def _padded(x: jax.Array) -> jax.Array:
    """x[B, h, w, K] with its edges repeated: [B, h + 2, w + 2, K]."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def _in_lanes(x: jax.Array, phases: int, wide: int) -> jax.Array:
    """x[..., K] -> [..., P * L]: once per phase, NEVER where there is no class."""
    more = wide - x.shape[-1]
    x = jnp.pad(x, ((0, 0),) * 3 + ((0, more),), constant_values=lanes.NEVER)
    return jnp.tile(x, phases)


def _pixels(strip, row, factor: int, phases: int, wide: int):
    """Yield (first column phase, scores [B, r, w, P * L]) of one row phase of a strip.

    ``strip`` [B, r + 2, w + 2, K] overlaps its neighbours and the padding; ``row`` may
    be traced, so that the program is as long for one row phase as for all.
    """
    taps = _taps(factor)
    strip = strip.astype(reduce_dtype(strip.dtype))
    strip = _in_lanes(strip, phases, wide) if phases > 1 else strip
    rows, columns = strip.shape[1] - 2, strip.shape[2] - 2
    down = jnp.asarray(taps, strip.dtype)[row]
    line = sum(down[i] * strip[:, i : i + rows] for i in range(3))
    for first in range(0, factor, phases):
        weights = np.repeat(taps[first : first + phases], wide, 0)
        yield (
            first,
            sum(
                jnp.asarray(weights[:, j], line.dtype)[None, None, None]
                * line[:, :, j : j + columns]
                for j in range(3)
                if weights[:, j].any()
            ),
        )


def _strip_rows(shape, phases, wide) -> int:
    """How many rows of scores [B, h, w, K] make a strip; they divide h."""
    batch, height, width, _ = shape
    lines = -(-phases * wide // LANES) * LANES
    fit = max(STRIP // (4 * batch * width * lines), 1)
    return max(r for r in range(1, height + 1) if height % r == 0 and r <= fit)


class _Strips:
    """Scores [B, h, w, K] and labels in strips that a scan goes through."""

    def __init__(self, scores: jax.Array, factor: int, labels: jax.Array | None = None):
        self.factor, self.classes = factor, scores.shape[3]
        self.phases, self.wide = _side_by_side(self.classes, factor)
        self.rows = _strip_rows(scores.shape, self.phases, self.wide)
        self.count = scores.shape[1] // self.rows
        self.padded = _padded(scores)
        if labels is not None:
            b, h, w, _ = scores.shape
            self.labels = labels.reshape(b, h, factor, factor * w)

    def strip(self, array: jax.Array, number) -> jax.Array:
        """[B, rows + 2, w + 2, K] of an array like ``padded``."""
        return lax.dynamic_slice_in_dim(array, number * self.rows, self.rows + 2, 1)

    def spread(self, number, row, first: int) -> jax.Array:
        """The labels of one phase, as :func:`segjax.ops.lanes` wants them."""
        b, _, _, width = self.labels.shape
        ids = lax.dynamic_slice(
            self.labels,
            (np.int32(0), number * self.rows, row, np.int32(0)),
            (b, self.rows, 1, width),
        )
        pixels = (first, first + self.phases)
        lines = self.phases * self.wide
        return lanes.spread_labels(ids[:, :, 0], (1, self.factor), lines, pixels)

    def pixels(self, strip: jax.Array, row):
        """:func:`_pixels` of a strip."""
        return _pixels(strip, row, self.factor, self.phases, self.wide)


def cross_entropy_sum(scores: jax.Array, labels: jax.Array, factor: int) -> jax.Array:
    """The sum of the cross-entropy of the upsampled scores, in nats; IGNORE counts 0.

    Args:
      scores: float[B, h, w, K].
      labels: int[B, f * h, f * w].
      factor: f.

    Returns:
      float32[] (float64 for float64 scores).
    """
    return _total(factor, scores, labels)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(factor, scores, labels):
    return _over_strips(factor, scores, labels, slopes=False)[0]


def _over_strips(factor, scores, labels, slopes):
    """The total and, with ``slopes``, the gradient of the padded scores."""
    strips = _Strips(scores, factor, labels)
    dtype = reduce_dtype(scores.dtype)

    def loss(strip, number, row):
        total = jnp.zeros((), dtype)
        for first, pixels in strips.pixels(strip, row):
            spread = strips.spread(number, row, first)
            total += lanes.cross_entropy_sum(
                pixels, spread, strips.phases, strips.classes
            )
        return total

    def phase(carry, row, strip, number):
        if not slopes:
            return (carry[0] + loss(strip, number, row), carry[1]), None
        value, slope = jax.value_and_grad(loss)(strip, number, row)
        return (carry[0] + value, carry[1] + slope), None

    def step(carry, number):
        total, slope = carry
        strip = strips.strip(strips.padded, number).astype(dtype)
        # Strips overlap: what the one before gave the shared rows is added to.
        own = strips.strip(slope, number) if slopes else slope
        one = partial(phase, strip=strip, number=number)
        (total, own), _ = lax.scan(
            one, (total, own), jnp.arange(factor, dtype=jnp.int32)
        )
        if slopes:
            begin = number * strips.rows
            own = lax.dynamic_update_slice_in_dim(slope, own, begin, 1)
        return (total, own), None

    slope = jnp.zeros(strips.padded.shape, dtype) if slopes else jnp.zeros(())
    start = (jnp.zeros((), dtype), slope)
    return lax.scan(step, start, jnp.arange(strips.count, dtype=jnp.int32))[0]


def _forward(factor, scores, labels):
    total, slope = _over_strips(factor, scores, labels, slopes=True)
    # The slope of the padding belongs to the edges that it repeats.
    (slope,) = jax.linear_transpose(_padded, scores.astype(slope.dtype))(slope)
    return total, slope.astype(scores.dtype)


def _backward(factor, slope, g):
    return (slope.astype(g.dtype) * g).astype(slope.dtype), None


_total.defvjp(_forward, _backward)


def _every_phase(strips: _Strips) -> jax.Array:
    """int32[strips * f, 2]: (number of the strip, row phase)."""
    both = np.indices((strips.count, strips.factor)).reshape(2, -1)
    return jnp.asarray(both.T, jnp.int32)


def predictions(scores: jax.Array, factor: int) -> jax.Array:
    """int32[B, f * h, f * w]: the best class of the upsampled scores [B, h, w, K]."""
    strips = _Strips(scores, factor)

    def step(_, at):
        strip = strips.strip(strips.padded, at[0])
        found = [
            lanes.predictions(pixels, strips.phases).astype(jnp.uint8)
            for _, pixels in strips.pixels(strip, at[1])
        ]
        return None, jnp.concatenate(found, -1)

    _, found = lax.scan(step, None, _every_phase(strips))
    batch, height, width, _ = scores.shape
    found = found.reshape(strips.count, factor, batch, strips.rows, width, factor)
    found = found.transpose(2, 0, 3, 1, 4, 5)
    return found.reshape(batch, factor * height, factor * width).astype(jnp.int32)


def confusion_matrix(scores: jax.Array, labels: jax.Array, factor: int) -> jax.Array:
    """int32[K, K]: rows the truth, columns the best class of the upsampled scores."""
    strips = _Strips(scores, factor, labels)

    def step(counts, at):
        strip = strips.strip(strips.padded, at[0])
        for first, pixels in strips.pixels(strip, at[1]):
            spread = strips.spread(at[0], at[1], first)
            counts += lanes.confusion_matrix(
                pixels, spread, strips.phases, strips.classes
            )
        return counts, None

    start = jnp.zeros((strips.classes, strips.classes), jnp.int32)
    return lax.scan(step, start, _every_phase(strips))[0]


def with_ignored_edges(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Labels int[B, H, W] at the top left of a larger ``size``, IGNORE around."""
    more = ((0, size[0] - labels.shape[1]), (0, size[1] - labels.shape[2]))
    return jnp.pad(labels, ((0, 0), *more), constant_values=IGNORE)
