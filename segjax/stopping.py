"""SIGTERM: the current step is finished, the state saved once, and the run ends."""

import signal
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

EXIT_CODE = 128 + int(signal.SIGTERM)
"""Of a run that SIGTERM stopped: 143, as a shell says of a process ended by it."""


class Terminated(SystemExit):
    """The run saved its state and ends, because it was told to; ``code`` is 143."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Stopping:
    """Takes SIGTERM (and Ctrl-C) while entered, and tells the loop when to stop.

    The signal only leaves a note, so that any number of further ones, also during the
    save, do no more. With ``jax.distributed`` JAX takes the signal, and its preemption
    service agrees on the step at which all processes stop, whichever of them was told.
    """

    def __init__(self):
        import jax

        self.told = self.interrupted = False
        service: bool = jax.config.jax_enable_preemption_service  # pyright: ignore
        self._shared = jax.distributed.is_initialized() and service
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        # Only the main thread may set handlers: elsewhere the program around decides.
        if threading.current_thread() is threading.main_thread():
            taken = {signal.SIGINT: self._interrupt}
            if not self._shared:
                taken[signal.SIGTERM] = self._take
            self._before = {n: signal.signal(n, take) for n, take in taken.items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _take(self, number: int, frame: Any) -> None:
        self.told = True

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def due(self, step: int) -> bool:
        """Whether to stop after this step; every process asks, at every step.

        Raises:
          KeyboardInterrupt: Ctrl-C came, but Python dropped what it raised, as it does
            in a finaliser or a callback.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        if self._shared:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.told


def next_batch(feed: Iterator, stopping: Stopping) -> Any:
    """The next batch; None where SIGTERM ended the processes that load it, too."""
    try:
        return next(feed)
    except RuntimeError:
        if not stopping.told:
            raise
        return None
