"""What a classifier makes of every image of a split, and how sure its scores are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax import setup, sharding
from segjax.augment import prepare_eval
from segjax.batch import Source
from segjax.classify import central_crop
from segjax.data.image_batches import image_batches
from segjax.report.account import CALIBRATION_BINS, EXAMPLES
from segjax.report.compare import DRAWS, LEVEL, SEED, Interval
from segjax.top import Outcomes

BEST = 5
"""Classes kept of each image."""

_DEVIATIONS = 1.959964  # of a normal distribution within which LEVEL lies


@dataclass
class Guesses:
    """Of N images, in the split's order.

    ``truth`` int[N]; ``best`` int[N, n] and ``chance`` float32[N, n], the likeliest
    classes and their probabilities, the largest first; ``rank`` int[N], how many
    classes come before the true one; ``of_truth`` float32[N], its probability.
    """

    num_classes: int
    truth: np.ndarray
    best: np.ndarray
    chance: np.ndarray
    rank: np.ndarray
    of_truth: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, probabilities: np.ndarray) -> "Guesses":
        """Of the probabilities float32[N, K]; of equal ones the lower comes first."""
        order = np.argsort(-probabilities, -1, kind="stable")
        best = order[:, :BEST]
        return cls(
            probabilities.shape[1],
            truth,
            best,
            np.take_along_axis(probabilities, best, 1),
            np.argmax(order == truth[:, None], -1),
            np.take_along_axis(probabilities, truth[:, None], 1)[:, 0],
        )

    @classmethod
    def joined(cls, parts: Sequence["Guesses"]) -> "Guesses":
        """Of the images of all parts, one after the other."""
        fields = ("truth", "best", "chance", "rank", "of_truth")
        arrays = (np.concatenate([getattr(p, f) for p in parts]) for f in fields)
        return cls(parts[0].num_classes, *arrays)

    @property
    def right(self) -> np.ndarray:
        """bool[N]: the likeliest class is the true one."""
        return self.rank == 0

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores, as ``segjax evaluate`` has them."""
        outcomes = Outcomes(self.num_classes)
        outcomes.add(self.truth, self.best[:, 0], self.rank)
        return outcomes.summarize(names)

    @property
    def matrix(self) -> np.ndarray:
        """int64[K, K], rows the truth."""
        found = np.zeros((self.num_classes, self.num_classes), np.int64)
        np.add.at(found, (self.truth, self.best[:, 0]), 1)
        return found

    @property
    def calibration(self) -> np.ndarray:
        """float64[3, BINS]: images, hits and sum of confidence, by confidence."""
        sure = self.chance[:, 0].astype(np.float64)
        bins = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        weights = (np.ones(len(sure)), self.right, sure)
        return np.array([np.bincount(bins, w, CALIBRATION_BINS) for w in weights])

    def calibration_error(self) -> float | None:
        """ECE, as :meth:`segjax.report.account.Account.calibration_error`."""
        images, hits, confidence = self.calibration
        if not images.sum():
            return None
        return float(np.abs(hits - confidence).sum() / images.sum())

    def examples(self) -> dict[tuple[int, int], list[int]]:
        """(truth, guess) -> its images, the surest first, at most EXAMPLES."""
        found: dict[tuple[int, int], list[int]] = {}
        wrong = np.flatnonzero(~self.right)
        for i in wrong[np.argsort(-self.chance[wrong, 0], kind="stable")].tolist():
            cell = (int(self.truth[i]), int(self.best[i, 0]))
            if len(found.setdefault(cell, [])) < EXAMPLES:
                found[cell].append(i)
        return found


def look(
    parts: setup.Parts,
    variables: Any,
    source: Source,
    progress: Callable[[int], None] = lambda done: None,
) -> Guesses:
    """Have a network classify each image of a split once, prepared as in evaluation.

    ``variables`` are on the mesh; ``progress`` is called with the images done.
    """
    size = parts.config.eval.batch_size or parts.config.data.batch_size

    def run(variables, image, own):
        image = prepare_eval(image, own, parts.pre.mean, parts.pre.std)
        logits = parts.model.apply(variables, image.astype(parts.dtype), train=False)
        return jax.nn.softmax(jnp.asarray(logits, jnp.float32), -1)

    run = jax.jit(run)
    batches = image_batches(
        source,
        batch_size=size,
        size=parts.pre.image_size,
        crop=central_crop(parts),
        threads=parts.config.data.threads,
    )
    placed = sharding.replicated(parts.mesh)

    def started():
        for indices, batch in batches:
            arrays = jax.device_put((batch["image"], batch["size"]), placed)
            yield (indices, batch["label"]), run(variables, *arrays)

    found = []
    for (indices, label), chances in sharding.one_behind(started()):
        rows = slice(len(indices))  # then rows of no image
        found.append(Guesses.of(label[rows], jax.device_get(chances)[rows]))
        progress(indices.stop)
    return Guesses.joined(found)


def share(hits: int, count: int) -> Interval:
    """A share and its interval: Wilson 1927, which holds for few images, too."""
    if not count:
        return Interval(np.nan, np.nan, np.nan)
    p, z = hits / count, _DEVIATIONS
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5
    half /= 1 + z**2 / count
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def shares(guesses: Guesses) -> list[Interval]:
    """Of each class's accuracy and, last, of top-1."""
    hits, counts = np.diagonal(guesses.matrix), guesses.matrix.sum(1)
    each = [share(int(h), int(n)) for h, n in zip(hits, counts, strict=True)]
    return [*each, share(int(hits.sum()), int(counts.sum()))]


def differences(ours: Guesses, theirs: Guesses) -> list[Interval]:
    """Of ours less theirs, per class and, last, of top-1: a bootstrap over images.

    An image is a gain, a loss or neither, so that a draw of images is one of these
    three counts.
    """
    change = ours.right.astype(int) - theirs.right.astype(int)
    generator = np.random.default_rng(SEED)
    found = []
    for k in range(ours.num_classes + 1):
        own = change[ours.truth == k] if k < ours.num_classes else change
        if not own.size:
            found.append(Interval(np.nan, np.nan, np.nan))
            continue
        lost, same, gained = (int(np.sum(own == side)) for side in (-1, 0, 1))
        odds = np.array([lost, same, gained]) / own.size
        drawn = generator.multinomial(own.size, odds, size=DRAWS)
        values = (drawn[:, 2] - drawn[:, 0]) / own.size
        low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        found.append(Interval((gained - lost) / own.size, float(low), float(high)))
    return found
