"""Loss and counts on scores whose pixels lie side by side in the lanes.

``scores`` [h, w, B, P * L] hold P pixels of L classes each, of which ``num_classes``
are real and the others NEVER. A reduction over the classes of one pixel would be one
over a part of the lanes; here sums are products with constant matrices of ones, which
leave each pixel's sum in all its lanes, so that nothing changes its layout. The
examples lie next to the lanes, as a TPU's convolutions leave them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from segjax.batch import IGNORE
from segjax.ops.cross_entropy import reduce_dtype
from segjax.ops.packed import EXACT, LANES

NEVER = -1e4
"""Score of a class that does not exist: its exponential is 0 beside any other."""


COUNTED = 2**24
"""Up to which float32 counts exactly."""


def _ids(lanes: int, phases: int, num_classes: int) -> np.ndarray:
    """int32[lanes]: the class of every lane, -1 where there is none."""
    ids = np.arange(lanes) % (lanes // phases)
    return np.where(ids < num_classes, ids, -1).astype(np.int32)


def _row(vector, ndim=4):
    return jnp.asarray(vector).reshape((1,) * (ndim - 1) + (-1,))


def spread_labels(
    labels: jax.Array,
    window: tuple[int, int],
    lanes: int,
) -> jax.Array:
    """Every pixel's label in all of its lanes: bfloat16[h, w, B, lanes].

    Args:
      labels: int[B, H, W], ids up to 255.
      window: (rows, columns) of pixels that lie side by side, in row order.
      lanes: rows * columns * L.
    """
    (b, height, width), (rows, columns) = labels.shape, window
    # By products with zeros and ones: the first takes each row's pixels apart, the
    # second writes them to their lanes. Ids up to 256 are exact in bfloat16.
    apart = np.eye(width).reshape(width, width // columns, columns)
    lines = labels.astype(jnp.bfloat16).reshape(b, height // rows, rows, width)
    pixels = jnp.einsum("bhyw,wvx->hvbyx", lines, jnp.asarray(apart, jnp.bfloat16))
    pixels = pixels.reshape(*pixels.shape[:3], rows * columns)
    wide = np.kron(np.eye(rows * columns), np.ones(lanes // (rows * columns)))
    spread = jnp.einsum("hvbp,pl->hvbl", pixels, jnp.asarray(wide, jnp.bfloat16))
    # Else the compiler may choose another order, and copy the scores into it.
    return with_layout_constraint(spread, Layout((0, 1, 2, 3)))


def _max_per_phase(values, phases):
    """The maximum of each phase's lanes, in all of them."""
    if phases == 1:
        return jnp.max(values, -1, keepdims=True)
    lanes = values.shape[-1]
    # Register by register: a reduction over all lanes for every phase would look at
    # those of other registers in vain.
    parts = lanes // LANES if phases % max(lanes // LANES, 1) == 0 else 1
    return jnp.concatenate(
        [_max_within(p, phases // parts) for p in jnp.split(values, parts, -1)], -1
    )


def _max_within(values, phases):
    lanes = values.shape[-1]
    phase = _row(np.arange(lanes) // (lanes // phases))
    wide = jnp.full((), -jnp.inf, values.dtype)
    for p in range(phases):
        one = jnp.max(jnp.where(phase == p, values, -jnp.inf), -1, keepdims=True)
        wide = jnp.where(phase == p, one, wide)
    return wide


def _sum_per_phase(values, phases, precision):
    """Sums over each phase's lanes, in all of them: one product."""
    if phases == 1:
        return jnp.sum(values, -1, keepdims=True, dtype=reduce_dtype(values.dtype))
    lanes = values.shape[-1]
    ones = np.kron(np.eye(phases), np.ones((lanes // phases,) * 2))
    ones = jnp.asarray(ones, values.dtype)
    wide = reduce_dtype(values.dtype)
    return jnp.einsum(
        "hwbl,lm->hwbm",
        values,
        ones,
        precision=precision,
        preferred_element_type=wide,
    )


def cross_entropy_sum(
    scores: jax.Array, spread: jax.Array, phases: int, num_classes: int
) -> jax.Array:
    """The sum over all pixels of their cross-entropy, in nats; IGNORE counts 0.

    Args:
      scores: float[h, w, B, lanes].
      spread: :func:`spread_labels`.
      phases: pixels side by side.
      num_classes: of a pixel.

    Returns:
      float32[] (float64 for float64 scores).
    """
    return _total(phases, num_classes, scores, spread)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(phases, num_classes, scores, spread):
    return _pieces(phases, num_classes, scores, spread)[0]


def _pieces(phases, num_classes, scores, spread):
    """Total, exponentials, their sums and whether a lane is its pixel's class."""
    x = scores.astype(reduce_dtype(scores.dtype))
    # The maximum in the scores' own type: nothing wider is stored.
    z = x - _max_per_phase(scores, phases).astype(x.dtype)
    e = jnp.exp(z)
    if scores.dtype == jnp.bfloat16:
        # Eight bits, as the scores have and as their slope gets: one product sums them
        # without rounding them again, where 16 bits take three. The greatest is 1, so
        # a pixel's loss is off by 2^-9 times the probability of all others at most.
        e = lax.reduce_precision(e, 8, 7)
        total = _sum_per_phase(e.astype(scores.dtype), phases, None)
    else:
        total = _sum_per_phase(e, phases, EXACT)
    ids = _row(_ids(x.shape[-1], phases, num_classes)).astype(spread.dtype)
    hit = spread == ids
    loss = jnp.sum(jnp.where(hit, jnp.log(total) - z, 0))
    return loss, e, total, hit


def _forward(phases, num_classes, scores, spread):
    loss, e, total, hit = _pieces(phases, num_classes, scores, spread)
    # The slope itself is kept, in the scores' type: the loss is one number, so its
    # gradient is a multiple of the slope, and the scores need not be read again.
    probability = e / total
    slope = jnp.where(hit, probability - 1, probability)
    slope = jnp.where(spread == IGNORE, 0, slope)
    return loss, slope.astype(scores.dtype)


def _backward(phases, num_classes, slope, g):
    wide = slope.astype(g.dtype) * g
    return wide.astype(slope.dtype), None


_total.defvjp(_forward, _backward)


def _guesses(scores, phases):
    """bool[h, w, B, lanes]: whether the lane is its pixel's first best class."""
    best = scores == _max_per_phase(scores, phases)
    # How many of the best come before each lane, among its pixel's: a product with a
    # triangle of ones, exact in bfloat16 as both are zeros and ones.
    before = np.kron(
        np.eye(phases), np.triu(np.ones((scores.shape[-1] // phases,) * 2), 1)
    )
    count = jnp.einsum(
        "hwbl,lm->hwbm",
        best.astype(jnp.bfloat16),
        jnp.asarray(before, jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    return best & (count == 0)


def predictions(scores: jax.Array, phases: int) -> jax.Array:
    """int32[h, w, B, P]: the class with the best score, the first of equal ones."""
    lanes = scores.shape[-1]
    ids = np.kron(np.eye(phases), np.arange(lanes // phases)[:, None])
    found = jnp.einsum(
        "hwbl,lp->hwbp",
        _guesses(scores, phases).astype(jnp.bfloat16),
        jnp.asarray(ids, jnp.bfloat16),  # exact up to 256
        preferred_element_type=jnp.float32,
    )
    return found.astype(jnp.int32)


def confusion_matrix(
    scores: jax.Array, spread: jax.Array, phases: int, num_classes: int
) -> jax.Array:
    """int32[K, K]: rows the truth, columns the class with the best score."""
    lanes = scores.shape[-1]
    ids = _row(_ids(lanes, phases, num_classes))
    truth = spread == ids.astype(spread.dtype)
    # Of more places row by row.
    at_once = scores.size // lanes <= COUNTED
    counts = jnp.einsum(
        "hwbt,hwbp->tp" if at_once else "hwbt,hwbp->htp",
        truth.astype(jnp.bfloat16),
        _guesses(scores, phases).astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    ).astype(jnp.int32)
    counts = counts if at_once else jnp.sum(counts, 0, dtype=jnp.int32)
    counts = counts.reshape(phases, lanes // phases, phases, lanes // phases)
    own = jnp.sum(counts[np.arange(phases), :, np.arange(phases)], 0, dtype=jnp.int32)
    return own[:num_classes, :num_classes]
