"""How sure a score is, and whether two networks differ: the bootstrap over images.

Images are drawn with replacement and their pixel counts are added up anew, so that each
draw gives a mIoU of a whole split, the same quantity as the score. The same draws serve
both networks: what is hard for both does not blur their difference. Efron & Tibshirani
1993, *An Introduction to the Bootstrap*. The interval tells how another sample of
images would change the score; it says nothing about another seed of training.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segjax.report.account import Account

DRAWS, SEED = 2000, 0
LEVEL = 0.95
_AT_ONCE = 200  # draws, so that many images need little memory


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        """1 above zero, -1 below, 0 when zero lies inside or nothing is known."""
        return int(self.low > 0) - int(self.high < 0)


def draws(count: int) -> Iterator[np.ndarray]:
    """DRAWS rows float64[R, N]: how often each of N images is in each draw."""
    generator = np.random.default_rng(SEED)
    share = np.full(count, 1 / count)
    for _ in range(DRAWS // _AT_ONCE):
        yield generator.multinomial(count, share, size=_AT_ONCE).astype(np.float64)


def _counts(account: Account) -> np.ndarray:
    """float64[3, N, K]: hits, truths and guesses, exact below 2**53 pixels."""
    counts = [account.hits, account.truths, account.guesses]
    return np.array(counts, np.float64)


def ious(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64[R, K + 1]: IoU of each class, then mIoU, for each row of weights [R, N].

    ``counts`` float64[3, N, K] are hits, truths and guesses. NaN where a class is in
    neither truth nor prediction.
    """
    hits, truths, guesses = weights @ counts
    union = truths + guesses - hits
    iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    known = ~np.isnan(iou)
    mean = np.divide(
        np.where(known, iou, 0).sum(1),
        known.sum(1),
        out=np.full(len(iou), np.nan),
        where=known.any(1),
    )
    return np.concatenate([iou, mean[:, None]], 1)


def intervals(account: Account, other: Account | None = None) -> list[Interval]:
    """Of each class's IoU and, last, the mIoU; with ``other`` of the differences."""
    ours, theirs = _counts(account), None if other is None else _counts(other)

    def values(weights: np.ndarray) -> np.ndarray:
        found = ious(ours, weights)
        return found if theirs is None else found - ious(theirs, weights)

    count = ours.shape[1]
    drawn = np.concatenate([values(weights) for weights in draws(count)])
    found = []
    for value, column in zip(values(np.ones((1, count)))[0], drawn.T, strict=True):
        column = column[~np.isnan(column)]
        low = high = np.nan
        if column.size and not np.isnan(value):
            low, high = np.quantile(column, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        found.append(Interval(float(value), float(low), float(high)))
    return found
