"""Evaluation batches of classification: every image once, all of one size."""

from collections.abc import Iterator

import numpy as np

from segjax.batch import NO_CLASS, Batch, Source
from segjax.data.pipeline import (
    check_not_empty,
    check_type,
    checked,
    finite,
    in_background,
    process_rows,
    resize_image,
)

Shape = tuple[int, int]


def whole_or_centre(image: np.ndarray, size: Shape, crop: float | None) -> np.ndarray:
    """The image as a classifier sees it: [h, w, C] to [*size, C], same dtype.

    ``crop`` None stretches the whole image. Else its centre, of the aspect of ``size``,
    whose side is that share of the largest that fits: 0.875 is the usual "resize the
    shorter side to 256, take the central 224". Cut first (at whole pixels), then
    resized, with antialiasing.
    """
    rows, columns = centre((image.shape[0], image.shape[1]), size, crop)
    return resize_image(np.ascontiguousarray(image[rows, columns]), size)


def centre(own: Shape, size: Shape, crop: float | None) -> tuple[slice, slice]:
    """The rows and columns of an image of ``own`` size that are looked at."""
    if crop is None:
        return slice(0, own[0]), slice(0, own[1])
    scale = crop * min(n / out for n, out in zip(own, size, strict=True))
    sides = [max(1, round(scale * out)) for out in size]
    top, left = ((n - s) // 2 for n, s in zip(own, sides, strict=True))
    return slice(top, top + sides[0]), slice(left, left + sides[1])


class _ImageBatch:
    """Number of a batch -> (its examples' indices, this process's rows of it)."""

    def __init__(self, source, batch_size: int, size: Shape, crop, rows: range):
        self.source, self.batch_size, self.rows = source, batch_size, rows
        self.size, self.crop = size, crop

    def __call__(self, number: int) -> tuple[range, Batch]:
        start = number * self.batch_size
        indices = range(start, min(start + self.batch_size, len(self.source)))
        images, labels = [], []
        for row in self.rows[: max(0, len(indices) - self.rows.start)]:
            example = self.source[indices[row]]
            image, label = checked(example, self.source.channels)
            check_type(example["id"], image, images)
            finite(image, example["id"])
            images.append(whole_or_centre(image, self.size, self.crop))
            labels.append(int(label))
        missing = len(self.rows) - len(images)
        if missing:
            first = images[0] if images else self.source[indices[0]]["image"]
            blank = np.zeros((*self.size, first.shape[2]), first.dtype)
            images, labels = images + [blank] * missing, labels + [NO_CLASS] * missing
        sizes = np.full((len(images), 2), self.size, np.int32)
        label = np.array(labels, np.int32)
        return indices, {"image": np.stack(images), "label": label, "size": sizes}


def image_batches(
    source: Source,
    *,
    batch_size: int,
    size: Shape,
    crop: float | None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[tuple[range, Batch]]:
    """Yield (indices, this process's rows) of every batch: every image exactly once.

    ``size`` and ``crop``: :func:`whole_or_centre`. Rows beyond a batch's examples have
    the label NO_CLASS.

    Raises:
      ValueError: the split is empty, or the processes do not divide ``batch_size``;
        while iterating, whatever the source raises for a bad file.
    """
    rows = process_rows(batch_size, process_index, process_count)
    check_not_empty(source)
    load = _ImageBatch(source, batch_size, size, crop, rows)
    number = -(-len(source) // batch_size)
    return in_background(range(number), load, threads=threads, workers=0, prefetch=2)
