"""Speed: images per second of training alone, and the share lost to waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Meter:
    """Counts images over the time spent in training.

    The clock starts when the first step has been issued, because that call compiles;
    what runs inside :meth:`pause` (evaluation, saving, a second compilation) does not
    count, and what runs inside :meth:`stall` (waiting for the next batch) counts and
    is reported as a share.

    Args:
      clock: a function that returns seconds; another one is for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._started: float | None = None
        self._paused = 0.0
        self._stalled = 0.0
        self._images = 0
        self._mark = (0.0, 0.0, 0)

    def step(self, images: int) -> None:
        """Say that one step over ``images`` images (all processes') was issued."""
        if self._started is None:
            self._started = self._clock()
            self._paused = self._stalled = 0.0
        else:
            self._images += images

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside does not count."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Time inside counts, and counts as waiting for input."""
        begin = self._clock()
        try:
            yield
        finally:
            self._stalled += self._clock() - begin

    def read(self) -> dict[str, float | None]:
        """``images_per_s`` and ``stall_share`` since the last read."""
        now = self._totals()
        before = self._mark
        speed = _speed(now[0] - before[0], now[1] - before[1], now[2] - before[2])
        self._mark = now
        return speed

    def total(self) -> dict[str, float | None]:
        """``images_per_s`` and ``stall_share`` since the first step."""
        return _speed(*self._totals())

    def _totals(self) -> tuple[float, float, int]:
        if self._started is None:
            return 0.0, 0.0, 0
        seconds = self._clock() - self._started - self._paused
        return seconds, self._stalled, self._images


def _speed(seconds: float, stalled: float, images: int) -> dict[str, float | None]:
    if seconds <= 0 or images == 0:
        return {"images_per_s": None, "stall_share": None}
    return {"images_per_s": images / seconds, "stall_share": stalled / seconds}
