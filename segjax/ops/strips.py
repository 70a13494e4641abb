"""Bilinear upsampling, cross-entropy and prediction, strip by strip.

Logits at the image's size are the largest array of a network that scores at a quarter
of it: 16 images of 512x512 with 150 classes are 2.5 GB, and the loss wants them and
their gradient. Here a strip of rows is upsampled, its loss and the gradient with
respect to the small scores are taken, and it is forgotten. Arrays are [K, rows, B,
columns]: sums and maxima over classes are of whole rows, and a TPU has columns in its
lanes and examples in its sublanes.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.batch import IGNORE
from segjax.ops import table
from segjax.ops.cross_entropy import reduce_dtype
from segjax.ops.resize import bilinear_matrix

STRIP = 2**20
"""About how many logits of an example a strip has."""


class Upsampling(NamedTuple):
    """From ``source`` (h, w) to ``size`` (H, W), each a static pair."""

    source: tuple[int, int]
    size: tuple[int, int]
    align_corners: bool

    @property
    def factor(self) -> int:
        """Rows that one row becomes, or 0 where they do not repeat a pattern."""
        whole = self.size[0] % self.source[0] == 0 and not self.align_corners
        return self.size[0] // self.source[0] if whole else 0

    @property
    def is_exact_in_bfloat16(self) -> bool:
        """Whether the columns' weights are: multiples of a power of two, 1/256 up."""
        factor = self.size[1] / self.source[1]
        power = factor == int(factor) and int(factor) & (int(factor) - 1) == 0
        return power and factor <= 128 and not self.align_corners


class Strips(NamedTuple):
    """How rows are cut: ``rows`` of the source for a strip, from ``starts`` on.

    ``weights`` float[strips or 1, phases, n, rows]: a strip has ``phases`` times ``n``
    rows of logits; row (i, p), the ``i * phases + p``-th of it, mixes its source rows
    by these weights. ``taps``: those of phase p, where they are the same in all rows i:
    ((offset, weight), ...), the row i + offset of the strip's source.
    """

    starts: np.ndarray
    rows: int
    phases: int
    n: int
    weights: np.ndarray | None
    taps: tuple[tuple[tuple[int, float], ...], ...]


def cut(up: Upsampling, num_classes: int, strip: int) -> Strips:
    """Strips of about ``strip`` logits."""
    height, width = up.size
    most = max(strip // (num_classes * width), 1)
    if up.factor:
        # A row more above and below, which repeat the edge.
        n = min(max(most // up.factor, 1), up.source[0])
        taps = []
        for p in range(up.factor):
            below = (p + 0.5) / up.factor - 0.5
            other = (2 if below > 0 else 0, abs(below))
            taps.append(((1, 1 - abs(below)), other) if below else ((1, 1.0),))
        starts = np.arange(math.ceil(up.source[0] / n)) * n
        return Strips(starts, n + 2, up.factor, n, None, tuple(taps))
    n = min(most, height)
    count = math.ceil(height / n)
    matrix = bilinear_matrix(height, up.source[0], up.align_corners)
    matrix = np.pad(matrix, ((0, count * n - height), (0, 0)))
    parts = matrix.reshape(count, n, -1)
    used = [np.flatnonzero(part.any(0)) for part in parts]
    rows = max(int(u[-1] - u[0]) + 1 for u in used)
    starts = np.array([min(int(u[0]), up.source[0] - rows) for u in used])
    weights = [p[:, s : s + rows] for p, s in zip(parts, starts, strict=True)]
    return Strips(starts, rows, 1, n, np.stack(weights), ())


def cross_entropy_sum(
    scores: jax.Array,
    labels: jax.Array,
    size: tuple[int, int],
    *,
    align_corners: bool,
    strip: int = STRIP,
    platform: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The sum of all pixels' cross-entropy in nats, and their predictions.

    Args:
      scores: float[B, h, w, K].
      labels: int[B, H, W], ids below K or IGNORE, which costs 0; H and W at most
        ``size``, to which scores are resized before they are cropped.
      size: (rows, columns).
      align_corners: of bilinear resizing.
      strip: about how many logits of an example exist at a time.
      platform: see :func:`segjax.ops.table.pixels`.

    Returns:
      float32[] (float64 for float64 scores), and int32[B, H, W], the class with the
      best score, the first of equal ones.
    """
    source = scores.shape[1], scores.shape[2]
    up = Upsampling(source, (size[0], size[1]), align_corners)
    return _total(up, strip, table.pixels(platform), scores, labels)


def predictions(
    scores: jax.Array,
    size: tuple[int, int],
    crop: tuple[int, int],
    *,
    align_corners: bool,
    strip: int = STRIP,
    platform: str | None = None,
) -> jax.Array:
    """int32[B, *crop]: every pixel's class with the best score, the first of equals."""
    nothing = jnp.full((scores.shape[0], *crop), IGNORE, jnp.int32)
    return cross_entropy_sum(
        scores,
        nothing,
        size,
        align_corners=align_corners,
        strip=strip,
        platform=platform,
    )[1]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _total(up, strip, how, scores, labels):
    return _run(up, strip, how, scores, labels, with_slope=False)[0]


def _forward(up, strip, how, scores, labels):
    # The loss is one number, so its gradient is a multiple of this one's slope.
    return _run(up, strip, how, scores, labels, with_slope=True)


def _backward(up, strip, how, slope, g):
    wide = slope.astype(g[0].dtype) * g[0]
    return wide.astype(slope.dtype), None


_total.defvjp(_forward, _backward)


def _run(up: Upsampling, strip: int, how: str, scores, labels, with_slope: bool):
    """((total, predictions), slope in the scores' type or None)."""
    strips = cut(up, scores.shape[3], strip)
    wide = reduce_dtype(scores.dtype)
    x = scores.transpose(3, 1, 0, 2).astype(wide)
    edge = 1 if strips.taps else 0
    below = max(int(strips.starts[-1]) + strips.rows - edge - up.source[0], 0)
    if strips.taps:
        x = jnp.pad(x, ((0, 0), (1, below), (0, 0), (0, 0)), mode="edge")
    columns = jnp.asarray(
        bilinear_matrix(up.size[1], up.source[1], up.align_corners), wide
    )
    exact = scores.dtype == jnp.bfloat16 and up.is_exact_in_bfloat16
    grow = partial(_grow, strips, columns, exact)
    pixels = partial(_pixels_kept, scores.dtype) if how == "kept" else _pixels

    def body(carry, part):
        total, slope = carry
        start, weights, part_labels = part
        rows = lax.dynamic_slice_in_dim(x, start, strips.rows, 1)
        if how == "kept":
            logits = grow(rows, weights)
            pullback = partial(_shrink, strips, columns, weights)
        else:
            logits, pullback = jax.vjp(lambda rows: grow(rows, weights), rows)
        costs, slopes, best = zip(
            *map(pixels, logits, [part_labels[p] for p in range(strips.phases)]),
            strict=True,
        )
        # By examples: devices that share them need not meet in the loop.
        total = total + sum(jnp.sum(cost, (0, 2)) for cost in costs)
        if with_slope:
            there = lax.dynamic_slice_in_dim(slope, start, strips.rows, 1)
            there = there + pullback(list(slopes))[0]
            slope = lax.dynamic_update_slice_in_dim(slope, there, start, 1)
        return (total, slope), jnp.stack(best)

    start = (jnp.zeros(x.shape[2], wide), jnp.zeros_like(x) if with_slope else None)
    weights = strips.weights
    parts = (
        jnp.asarray(strips.starts, jnp.int32),
        None if weights is None else jnp.asarray(weights, wide),
        _cut_labels(strips, labels, up.size[1]),
    )
    (total, slope), best = lax.scan(body, start, parts)
    # [strips, phases, n, B, W] -> [B, strips, n, phases, W]
    best = best.transpose(3, 0, 2, 1, 4).reshape(x.shape[2], -1, up.size[1])
    best = best[:, : labels.shape[1], : labels.shape[2]]
    if slope is None:
        return (jnp.sum(total), best), None
    if strips.taps:
        slope = _fold_edges(slope, up.source[0])
    return (jnp.sum(total), best), slope.transpose(2, 1, 3, 0).astype(scores.dtype)


def _cut_labels(strips: Strips, labels, width: int):
    """int[B, H, W] -> int32[strips, phases, n, B, width]; what is beyond is IGNORE."""
    count = len(strips.starts)
    height = count * strips.n * strips.phases
    more = ((0, 0), (0, height - labels.shape[1]), (0, width - labels.shape[2]))
    padded = jnp.pad(labels.astype(jnp.int32), more, constant_values=IGNORE)
    shape = labels.shape[0], count, strips.n, strips.phases, width
    return padded.reshape(shape).transpose(1, 3, 2, 0, 4)


def _fold_edges(slope, height: int):
    """Slopes of the repeated rows, above and below, are added to the edges'."""
    inner = slope[:, 1 : height + 1]
    inner = inner.at[:, 0].add(slope[:, 0])
    return inner.at[:, -1].add(jnp.sum(slope[:, height + 1 :], 1))


def _grow(strips: Strips, columns, exact: bool, rows, weights):
    """Source rows [K, r, B, w] -> logits of every phase, [K, n, B, W] each."""
    # One product of bfloat16 numbers is exact where scores and weights are such.
    precision = lax.Precision.DEFAULT if exact else lax.Precision.HIGHEST
    y = jnp.einsum("krbw,pw->krbp", rows, columns, precision=precision)
    if not strips.taps:
        highest = lax.Precision.HIGHEST
        return [jnp.einsum("nr,krbp->knbp", weights, y, precision=highest)]
    n = strips.n
    return [
        sum(weight * y[:, at : at + n] for at, weight in taps) for taps in strips.taps
    ]


def _shrink(strips: Strips, columns, weights, slopes):
    """The adjoint of :func:`_grow`: ([K, r, B, w],) of the slopes of every phase.

    Slopes are summed by the row that they mix first: fewer arrays are written and read
    than by the derivative of each tap.
    """
    highest = lax.Precision.HIGHEST  # slopes are float32
    if strips.taps:
        sums: dict[int, list[jax.Array]] = {}
        for slope, taps in zip(slopes, strips.taps, strict=True):
            for at, weight in taps:
                sums.setdefault(at, []).append(weight * slope)
        y = sum(
            jnp.pad(sum(s[1:], s[0]), ((0, 0), (at, 2 - at), (0, 0), (0, 0)))
            for at, s in sums.items()
        )
    else:
        y = jnp.einsum("nr,knbp->krbp", weights, slopes[0], precision=highest)
    return (jnp.einsum("krbp,pw->krbw", y, columns, precision=highest),)


def _pixels_kept(dtype, logits, labels):
    """:func:`_pixels` where reductions that also write what they read are faster.

    Barriers keep the compiler from computing logits and exponentials anew. One fusion
    of a TPU's program gives the logits and their maximum, which equals one of them
    then. Exponentials of bfloat16 scores are kept in bfloat16, as their gradient is;
    the greatest is 1 in either.
    """
    maximum = jnp.max(logits, 0)
    logits = lax.optimization_barrier(logits)
    ids = lax.broadcasted_iota(jnp.int32, (logits.shape[0], 1, 1, 1), 0)
    z = logits - maximum[None]
    # As floats, like the sums, so that all are reduced in one pass.
    last = logits.shape[0] - 1  # what NaN and infinity are taken for
    first = jnp.min(jnp.where(z == 0, ids.astype(z.dtype), last), 0)
    e = jnp.exp(z)
    total, hit = jnp.sum(e, 0), labels[None] == ids
    true = jnp.sum(jnp.where(hit, z, 0), 0)
    e = lax.optimization_barrier(e.astype(dtype)).astype(z.dtype)
    return *_cost_and_slope(e, total, true, hit, labels), first.astype(jnp.int32)


def _pixels(logits, labels):
    """Cost and prediction [n, B, W] of every pixel, and the slope [K, n, B, W]."""
    maximum, best = _max_and_first(logits)
    z = logits - maximum[None]
    e = jnp.exp(z)
    total = jnp.sum(e, 0)
    ids = lax.broadcasted_iota(jnp.int32, (logits.shape[0], 1, 1, 1), 0)
    hit = labels[None] == ids
    true = jnp.sum(jnp.where(hit, z, 0), 0)
    return *_cost_and_slope(e, total, true, hit, labels), best


def _cost_and_slope(e, total, true, hit, labels):
    """Of exponentials [K, n, B, W], their sums and the true class' logit [n, B, W]."""
    valid = labels != IGNORE
    cost = jnp.where(valid, jnp.log(total) - true, 0)
    # One division a pixel, not one a class.
    share = jnp.where(valid, 1 / total, 0)
    return cost, e * share[None] - jnp.where(hit, jnp.ones((), e.dtype), 0)


def _max_and_first(x):
    """The maximum over the first axis, and the first index that has it.

    In one pass: where values equal a maximum found before, a compiler that computes
    them twice may round them differently.
    """

    def better(a, b):
        (value, index), (other, place) = a, b
        first = (value > other) | ((value == other) & (index < place))
        return jnp.where(first, value, other), jnp.where(first, index, place)

    ids = lax.broadcasted_iota(jnp.int32, x.shape, 0)
    none = jnp.array(-jnp.inf, x.dtype), jnp.array(x.shape[0], jnp.int32)
    return lax.reduce((x, ids), none, better, (0,))
