"""Evaluation batches: every example once, at its own label resolution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segjax.batch import IGNORE, Batch, Source
from segjax.data.padding import padded
from segjax.data.pipeline import (
    check_not_empty,
    check_type,
    checked,
    finite,
    fit_size,
    in_background,
    process_rows,
    resize_image,
    stack,
)

Shape = tuple[int, int]


@dataclass(frozen=True)
class EvalGroup:
    """One global evaluation batch: examples whose padded arrays have one shape.

    ``indices`` are at most ``batch_size`` examples, ``sizes`` the (height, width) that
    each of their images is resized to; ``image_shape`` and ``label_shape`` are the
    batch's (H, W) and (Hl, Wl).
    """

    indices: tuple[int, ...]
    sizes: tuple[Shape, ...]
    image_shape: Shape
    label_shape: Shape


def eval_schedule(
    sizes: Sequence[Shape],
    *,
    batch_size: int,
    bucket: int,
    buffer: Shape | None,
    fit: str,
    known: Sequence[Shape] = (),
) -> list[EvalGroup]:
    """Split examples of the given label sizes into batches of equal padded shapes.

    A pure function, so that all processes agree. Shapes are the least of ``known``
    that holds them, or multiples of ``bucket`` (:func:`segjax.data.padding.padded`),
    which bounds how often the evaluation step compiles. ``fit="pad"``
    keeps an image's size (shrunk into ``buffer`` as in training, unless that is
    None); ``fit="resize"`` brings it to the buffer. Labels keep their size always.

    Raises:
      ValueError: ``bucket`` is below 1, or ``fit="resize"`` comes without a buffer.
    """
    if bucket < 1:
        raise ValueError(f"eval.bucket={bucket}; write 1 or more pixels")
    if fit == "resize" and buffer is None:
        raise ValueError("data.fit='resize' needs data.image_size")
    shapes: dict[tuple[Shape, Shape], list[tuple[int, Shape]]] = {}
    for index, (h, w) in enumerate(sizes):
        own = (int(h), int(w))
        size = fit_size(own, buffer or own, fit)
        image_shape = size if fit == "resize" else padded(size, known, bucket)
        key = (image_shape, padded(own, known, bucket))
        shapes.setdefault(key, []).append((index, size))
    groups = []
    for (image_shape, label_shape), members in shapes.items():
        for start in range(0, len(members), batch_size):
            indices, fitted = zip(*members[start : start + batch_size], strict=True)
            groups.append(EvalGroup(indices, fitted, image_shape, label_shape))
    return groups


class _EvalBatch:
    """Number of a group -> (group, this process's rows of its batch)."""

    def __init__(self, source: Source, schedule: Sequence[EvalGroup], rows: range):
        self.source, self.schedule, self.rows = source, schedule, rows

    def __call__(self, number: int) -> tuple[EvalGroup, Batch]:
        group = self.schedule[number]
        images, labels = [], []
        for row in self.rows[: max(0, len(group.indices) - self.rows.start)]:
            example = self.source[group.indices[row]]
            image, label = checked(example, self.source.channels)
            if np.any(np.array(label.shape) > group.label_shape):
                raise ValueError(
                    f"{example['id']}: the label is {label.shape}, larger than the "
                    f"{group.label_shape} that its header promised"
                )
            check_type(example["id"], image, images)
            finite(image, example["id"])
            images.append(resize_image(image, group.sizes[row]))
            labels.append(label)
        return group, self._padded(group, images, labels)

    def _padded(self, group: EvalGroup, images: list, labels: list) -> Batch:
        missing = len(self.rows) - len(images)
        if missing:
            first = images[0] if images else self.source[group.indices[0]]["image"]
            blank = np.zeros((*group.image_shape, first.shape[2]), first.dtype)
            images = images + [blank] * missing
            labels = labels + [np.full(group.label_shape, IGNORE, np.uint8)] * missing
        image, size = stack(images, group.image_shape, 0)
        label, label_size = stack(labels, group.label_shape, IGNORE)
        return {"image": image, "size": size, "label": label, "label_size": label_size}


def eval_batches(
    source: Source,
    schedule: Sequence[EvalGroup],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[tuple[EvalGroup, Batch]]:
    """Yield this process's rows of every batch: every example exactly once.

    All processes yield the same number of batches of the same shapes. Rows beyond a
    group's examples have labels that are all IGNORE and a full ``size``.

    Raises:
      ValueError: the split is empty, or the processes do not divide ``batch_size``;
        while iterating, whatever the source raises for a bad file.
    """
    rows = process_rows(batch_size, process_index, process_count)
    check_not_empty(source)
    load = _EvalBatch(source, tuple(schedule), rows)
    return in_background(
        range(len(schedule)), load, threads=threads, workers=0, prefetch=2
    )
