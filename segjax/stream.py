"""Images through a network one by one: some are read ahead, some written behind."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from segjax.data.inputs import Entry


class Results:
    """What was found and what failed, in order."""

    def __init__(self):
        self.images: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self.pixels = 0

    def add(self, entry: Entry, written: Future) -> None:
        """Wait for an image's files and take note of it."""
        try:
            about, more = written.result()
        except (ValueError, OSError) as error:
            return self.fail(entry, error)
        self.images.append(about)
        self.pixels += about["size"][0] * about["size"][1]
        self.note(about, more)

    def note(self, about: dict[str, Any], more: Any) -> None:
        """For a subclass: an image's two results of the writer."""

    def fail(self, entry: Entry, error: Exception) -> None:
        """Take note of an image that could not be read, seen or written."""
        name, text = entry.about["image"], str(error)
        self.failed.append(
            {"image": name, "error": text if name in text else f"{name}: {text}"}
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"images": self.images, "failed": self.failed}

    def speed(self, seconds: float) -> str:
        """How much was done, and how fast."""
        count, megapixels = len(self.images), self.pixels / 1e6
        return (
            f"{count} image{'s' * (count != 1)}, {megapixels:.1f} MPix in "
            f"{seconds:.1f} s (compiling, reading and writing included): "
            f"{count / seconds:.2f} images/s, {megapixels / seconds:.2f} MPix/s"
        )


def stream(
    entries: Iterable[Entry],
    network: Callable,
    writer: Callable,
    results: Results,
    progress: Callable[[], None],
    threads: int,
) -> None:
    """Take every entry through network and writer.

    A ValueError or OSError of one image ends that image alone.

    Args:
      entries: what is read, in other threads.
      network: image [h, w, C] -> tuple of arrays; here, one image after the other.
      writer: (entry, image, truth, *arrays) -> what ``results`` takes note of; in
        other threads.
      results: takes them, in order.
      progress: called after each.
      threads: how many read and write; as many images are held on either side.
    """
    reading, writing = deque(), deque()

    def next_image() -> None:
        entry, read = reading.popleft()
        try:
            image, truth = read.result()
            found = network(image)
        except (ValueError, OSError) as error:
            results.fail(entry, error)
        else:
            written = pool.submit(writer, entry, image, truth, *found)
            writing.append((entry, written))
        while len(writing) > threads:
            results.add(*writing.popleft())
        progress()

    with ThreadPoolExecutor(threads) as pool:
        for entry in entries:
            reading.append((entry, pool.submit(entry.read)))
            if len(reading) > threads:
                next_image()
        while reading:
            next_image()
        while writing:
            results.add(*writing.popleft())
