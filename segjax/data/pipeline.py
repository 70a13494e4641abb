"""Training batches: order, decode, fit, cache. Grain runs it in threads or workers.

The order of examples is a pure function of (seed, step): nothing has to be saved to
resume but the step, and it is the same for any number of processes, threads and
workers, because Grain maps *step numbers* to batches.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse

from segjax.batch import IGNORE, Batch, Example, Source

FITS = ("pad", "resize")
_LAST_STEP = 2**62
_SHUFFLE_SEEDS = 2**32


def fit_size(size: tuple[int, int], buffer: tuple[int, int], fit: str):
    """(height, width) that an image of ``size`` has inside the buffer.

    ``resize``: the buffer's. ``pad``: its own, or where it is larger than the buffer,
    the largest of the same aspect that goes in.

    Raises:
      ValueError: ``fit`` is neither of the two.
    """
    if fit not in FITS:
        raise ValueError(f"data.fit={fit!r} is unknown; write 'pad' or 'resize'")
    if fit == "resize":
        return buffer
    (h, w), (rows, columns) = size, buffer
    if h <= rows and w <= columns:
        return size
    if rows * w <= columns * h:
        return rows, min(columns, max(1, round(w * rows / h)))
    return min(rows, max(1, round(h * columns / w))), columns


@lru_cache(maxsize=256)
def _triangle(length: int, out: int) -> sparse.csr_matrix:
    """float32[out, length]: Pillow's BILINEAR, whose width grows when shrinking."""
    scale = length / out
    support = max(scale, 1.0)
    centre = (np.arange(out) + 0.5) * scale
    taps = 2 * int(np.ceil(support)) + 1
    first = np.floor(centre - support).astype(int)
    source = first[:, None] + np.arange(taps)[None]
    distance = np.abs(source + 0.5 - centre[:, None]) / support
    weight = np.maximum(1.0 - distance, 0.0) * ((source >= 0) & (source < length))
    weight /= weight.sum(axis=1, keepdims=True)
    row, tap = np.nonzero(weight)
    entries = (weight[row, tap].astype(np.float32), (row, source[row, tap]))
    return sparse.csr_matrix(entries, shape=(out, length))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing: [h, w, C] of any dtype to [*size, C], same dtype.

    Two sparse matrix products in float32 with the weights of Pillow's BILINEAR, so
    that 16-bit, float and many-channel images get what 8-bit RGB gets; integers are
    rounded once, at the end.
    """
    h, w, channels = image.shape
    if (h, w) == size:
        return image
    down = _triangle(h, size[0]) @ image.reshape(h, -1).astype(np.float32)
    turned = _turned(down.reshape(size[0], w, channels))
    across = _triangle(w, size[1]) @ turned.reshape(w, -1)
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        across = np.clip(np.rint(across), limits.min, limits.max)
    result = across.reshape(size[1], size[0], channels).astype(image.dtype, copy=False)
    return _turned(result)


def _turned(array: np.ndarray) -> np.ndarray:
    """[a, b, C] to [b, a, C], contiguous; a pixel is moved as one piece of memory."""
    pixel = np.dtype((np.void, array.shape[2] * array.itemsize))
    turned = np.ascontiguousarray(array.view(pixel)[:, :, 0].T)
    return turned[:, :, None].view(array.dtype)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest by pixel centres: uint8[h, w] to uint8[*size]; makes no new id."""
    (h, w), (rows, columns) = label.shape, size
    if (h, w) == (rows, columns):
        return label
    # Integers, because (o + 0.5) * h / rows in floats may fall short of a whole number.
    row = (2 * np.arange(rows) + 1) * h // (2 * rows)
    column = (2 * np.arange(columns) + 1) * w // (2 * columns)
    # Whole rows first: they are copied in one piece.
    return label.take(row, axis=0).take(column, axis=1)


def fit_example(
    example: Example, buffer: tuple[int, int], fit: str
) -> dict[str, np.ndarray]:
    """Put one example into the buffer (H, W), at its top left corner.

    Returns ``image`` [H, W, C], ``label`` uint8[H, W] and ``size`` int32[2], the valid
    area, outside which the image is 0 and the label IGNORE (:func:`fit_size`). A label
    that is the image's class, int32[], stays.

    Raises:
      ValueError: ``fit`` is unknown; image and label differ in size (names the id).
    """
    batch = _train_batch([_fitted(example, buffer, fit)], buffer)
    return {key: value[0] for key, value in batch.items()}


def _train_batch(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], buffer: tuple[int, int]
) -> Batch:
    image, size = stack([image for image, _ in rows], buffer, 0)
    labels = [label for _, label in rows]
    if labels[0].ndim == 0:
        label = np.stack(labels)
    else:
        label, _ = stack(labels, buffer, IGNORE)
    return {"image": image, "label": label, "size": size}


def _fitted(example: Example, buffer: tuple[int, int], fit: str):
    image, label = checked(example)
    size = fit_size(image.shape[:2], buffer, fit)
    fitted = resize_image(image, size)
    return fitted, resize_label(label, size) if label.ndim else label


def checked(example: Example, channels: int | None = None):
    """Image and label of an example that keeps the contract of ``segjax.batch``."""
    image, label = example["image"], example["label"]
    if image.ndim != 3 or (label.ndim and image.shape[:2] != label.shape):
        raise ValueError(
            f"{example['id']}: the image's shape is {image.shape} and the label's "
            f"{label.shape}; they have to be [h, w, channels] and [h, w] (or, of one "
            "class per image, [])"
        )
    if channels is not None and image.shape[2] != channels:
        raise ValueError(
            f"{example['id']}: the image has {image.shape[2]} channels, but the "
            f"dataset's other images {channels}; convert it, or set data.channels"
        )
    return image, label


def finite(image: np.ndarray, name: str) -> np.ndarray:
    """The image; a network makes nothing but the first class of NaN.

    Raises:
      ValueError: it holds NaN or infinite values.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        wrong = int((~np.isfinite(image)).any(axis=2).sum())
        raise ValueError(
            f"{name}: {wrong} of {image.shape[0] * image.shape[1]} pixels are NaN or "
            "infinite; replace them (by 0, say)"
        )
    return image


def stack(
    arrays: Sequence[np.ndarray], buffer: tuple[int, int], fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [h, w, ...] of mixed sizes to ([B, H, W, ...], sizes int32[B, 2]).

    Each lies at the top left of its row, which is ``fill`` elsewhere.
    """
    first = arrays[0]
    stacked = np.full((len(arrays), *buffer, *first.shape[2:]), fill, first.dtype)
    for row, array in enumerate(arrays):
        stacked[row, : array.shape[0], : array.shape[1]] = array
    return stacked, np.array([array.shape[:2] for array in arrays], np.int32)


def check_type(name: str, image: np.ndarray, before: Sequence[np.ndarray]) -> None:
    """Refuse an image that :func:`stack` would cast to the type of those before it.

    Raises:
      ValueError: with both types.
    """
    if before and image.dtype != before[0].dtype:
        raise ValueError(
            f"{name} is {image.dtype} but the image before it "
            f"{before[0].dtype}; convert the images to one type"
        )


def process_rows(batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of a global batch that a process loads: its p-th equal part.

    Raises:
      ValueError: the number of processes does not divide the batch.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"data.batch_size={batch_size} is not a multiple of the {process_count} "
            "processes; it counts the images of all processes together"
        )
    local = batch_size // process_count
    return range(process_index * local, (process_index + 1) * local)


def _shuffled(seed: int, num_examples: int):
    """Grain's endless stream of indices, shuffled anew in each epoch."""
    import grain  # imports jax, which data/ must not do unasked

    stream = grain.MapDataset.range(num_examples).seed(seed % _SHUFFLE_SEEDS)
    return stream.shuffle().repeat()


def example_indices(
    seed: int, step: int, batch_size: int, num_examples: int
) -> np.ndarray:
    """int64[B]: the examples of global batch ``step``, in order.

    Entry j is position ``step * batch_size + j`` of the endless shuffled stream.
    """
    stream = _shuffled(seed, num_examples)
    places = range(step * batch_size, (step + 1) * batch_size)
    return np.array([stream[place] for place in places], np.int64)


class _Decoded:
    """Fitted examples, kept in memory up to ``limit`` bytes; safe in threads.

    Examples are kept until the limit and never thrown out: in a shuffled epoch every
    example comes up once, so that the oldest are as likely to be needed as any.
    """

    def __init__(self, source: Source, buffer: tuple[int, int], fit: str, limit: int):
        self.source, self.buffer, self.fit, self.limit = source, buffer, fit, limit
        self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.bytes = 0
        self.first: np.ndarray | None = None
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process begins with its own empty cache; a lock cannot be pickled.
        return {**self.__dict__, "kept": {}, "bytes": 0, "first": None, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.kept.get(index)
        if found is not None:
            return found
        example = self.source[index]
        checked(example, self.source.channels)
        image, label = _fitted(example, self.buffer, self.fit)
        size = image.nbytes + label.nbytes
        with self.lock:
            # Of any batch: the train step is compiled for one type.
            if self.first is None:
                self.first = np.empty(0, image.dtype)
            check_type(example["id"], image, [self.first])
            if index not in self.kept and self.bytes + size <= self.limit:
                # Views, so that the source's own arrays stay as they were.
                image, label = image.view(), label.view()
                image.flags.writeable = label.flags.writeable = False
                self.kept[index] = (image, label)
                self.bytes += size
        return image, label


class _TrainBatch:
    """Step number -> this process's rows of that step's batch."""

    def __init__(self, decoded: _Decoded, stream: Any, batch_size: int, rows: range):
        self.decoded, self.stream = decoded, stream
        self.batch_size, self.rows = batch_size, rows

    def __call__(self, step: int) -> Batch:
        start = step * self.batch_size
        rows = [self.decoded[int(self.stream[start + row])] for row in self.rows]
        return _train_batch(rows, self.decoded.buffer)


def train_batches(
    source: Source,
    *,
    seed: int,
    start_step: int,
    batch_size: int,
    buffer: tuple[int, int],
    fit: str,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    workers: int = 0,
    cache_bytes: int = 2**30,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Yield this process's share of the global batches ``start_step, ...``.

    Endless; every epoch is shuffled anew. Row j of global batch s holds example
    ``example_indices(seed, s, batch_size, n)[j]``, and process p of P yields the rows
    from ``p * batch_size / P`` on. ``cache_bytes`` bounds the memory for decoded
    examples (divided among the worker processes); ``prefetch`` counts batches.

    Raises:
      ValueError: the split is empty, the processes do not divide ``batch_size``, or
        ``fit`` is unknown; while iterating, whatever the source raises for a bad file.
    """
    rows = process_rows(batch_size, process_index, process_count)
    check_not_empty(source)
    fit_size(buffer, buffer, fit)
    limit = cache_bytes // max(workers, 1)
    decoded = _Decoded(source, buffer, fit, limit)
    load = _TrainBatch(decoded, _shuffled(seed, len(source)), batch_size, rows)
    return in_background(
        range(start_step, _LAST_STEP),
        load,
        threads=threads,
        workers=workers,
        prefetch=prefetch,
    )


def check_not_empty(source: Source) -> None:
    """Raise a ValueError that names the split if it has no examples."""
    if not len(source):
        raise ValueError(
            f"the split {getattr(source, 'split', '?')!r} of {type(source).__name__} "
            "has no examples; check data.root and the split's list or fraction"
        )


def _spare_worker(index: int, count: int) -> None:
    """In a worker: signals to the whole group are for its parent, which ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def in_background(
    keys: range, load: Any, *, threads: int, workers: int, prefetch: int
) -> Iterator[Any]:
    """``load(key)`` for each key, in order, computed ahead by Grain.

    Closing the generator (or dropping it) ends the threads and worker processes.
    """
    import grain  # imports jax, which data/ must not do unasked

    # One element is one batch, so its content cannot depend on the workers' number.
    batches = grain.MapDataset.range(keys.start, keys.stop).map(load)
    ahead = max(prefetch, threads)
    dataset = batches.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if workers:
        from absl import flags

        # Grain reads a flag in its worker processes' parent, which outside of
        # absl's app.run would be an error.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        several = grain.MultiprocessingOptions(workers, prefetch)
        dataset = dataset.mp_prefetch(several, _spare_worker)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
