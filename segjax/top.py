"""Metrics of whole images' classes: top-1, top-5 and the confusion matrix.

The device tells of each image only its predicted class and how many classes come before
the true one; the host counts these integers, so that a split's numbers do not depend on
batch, padding or devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.batch import NO_CLASS

SHOWN_CLASSES = 100  # with more, the matrix is too long for a line of JSON
MOST_CONFUSED = 20


def ranks(logits: jax.Array, label: jax.Array) -> jax.Array:
    """int32[B]: how many classes come before the true one; -1 for NO_CLASS.

    Of equal scores the lower class comes first, as ``argmax`` has it. Scores that are
    not numbers put the true class last.
    """
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :]
    true = jnp.sum(jnp.where(classes == label[:, None], logits, 0), -1)[:, None]
    before = (logits > true) | ((logits == true) & (classes < label[:, None]))
    before |= jnp.isnan(logits) | jnp.isnan(true)
    count = jnp.sum(before, -1, dtype=jnp.int32)
    return jnp.where(label == NO_CLASS, -1, count)


def count_hits(logits, predicted, label, **_) -> dict[str, jax.Array]:
    """``hits`` int32[3]: images; whose class is the first; is among the first five."""
    found = ranks(logits, label)
    counted = [found >= 0, found == 0, (found >= 0) & (found < 5)]
    return {"hits": jnp.stack([jnp.sum(hit, dtype=jnp.int32) for hit in counted])}


def of_hits(hits: np.ndarray) -> dict[str, float | None]:
    """``top1`` and ``top5`` of sums of :func:`count_hits`; None without images."""
    images, first, five = (int(n) for n in hits)
    return {
        "top1": first / images if images else None,
        "top5": five / images if images else None,
    }


class Outcomes:
    """What became of the images of a split, on the host."""

    def __init__(self, num_classes: int):
        self.matrix = np.zeros((num_classes, num_classes), np.int64)
        self.hits = np.zeros(3, np.int64)

    def add(self, label: np.ndarray, prediction: np.ndarray, rank: np.ndarray) -> None:
        """A batch's int[B] each; rows of NO_CLASS count nowhere."""
        valid = label != NO_CLASS
        np.add.at(self.matrix, (label[valid], prediction[valid]), 1)
        rank = rank[valid]
        self.hits += np.array([rank.size, (rank == 0).sum(), (rank < 5).sum()])

    def summarize(self, names: Sequence[str]) -> dict[str, Any]:
        """Every metric of the images so far, plain.

        ``top1`` and ``top5`` are shares of the images whose class is the first, or
        among the first five (all of them, with fewer classes); ``class_accuracy`` the
        mean over the classes that have images of ``accuracy_per_class``;
        ``share_per_class`` the share of the images. ``confusion`` int[K, K] (rows: the
        truth) is there for up to 100 classes, ``most_confused`` always: [truth,
        taken for, images], the most frequent first.
        """
        hit, truth = np.diagonal(self.matrix), self.matrix.sum(1)
        images = int(self.hits[0])
        accuracy = {
            name: int(h) / int(n) if n else None
            for name, h, n in zip(names, hit, truth, strict=True)
        }
        known = [value for value in accuracy.values() if value is not None]
        summary = {
            **of_hits(self.hits),
            "class_accuracy": float(np.mean(known)) if known else None,
            "accuracy_per_class": accuracy,
            "share_per_class": {
                name: int(n) / max(images, 1)
                for name, n in zip(names, truth, strict=True)
            },
            "absent_classes": [n for n, v in accuracy.items() if v is None],
            "most_confused": self._most_confused(names),
            "images": images,
        }
        if len(names) <= SHOWN_CLASSES:
            summary["confusion"] = self.matrix.tolist()
        return summary

    def _most_confused(self, names: Sequence[str]) -> list[list[Any]]:
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
        places = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            [names[t], names[p], int(wrong[t, p])] for t, p in places if wrong[t, p]
        ]
