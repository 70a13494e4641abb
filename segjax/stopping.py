"""SIGTERM: the current step is finished, the state saved once, and the run ends."""

import signal
import threading
from types import TracebackType
from typing import Any

EXIT_CODE = 128 + int(signal.SIGTERM)
"""Of a run that SIGTERM stopped: 143, as a shell says of a process ended by it."""


class Terminated(SystemExit):
    """The run saved its state and ends, because it was told to; ``code`` is 143."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Stopping:
    """Takes SIGTERM while it is entered, and tells the loop when to stop.

    The signal only leaves a note, so that any number of further ones, also during the
    save, do no more. With ``jax.distributed`` JAX takes the signal, and its preemption
    service agrees on the step at which all processes stop, whichever of them was told.
    """

    def __init__(self):
        import jax

        self.told = False
        service: bool = jax.config.jax_enable_preemption_service  # pyright: ignore
        self._shared = jax.distributed.is_initialized() and service
        self._before: Any = None

    def __enter__(self) -> "Stopping":
        # Only the main thread may set handlers: elsewhere the program around decides.
        main = threading.current_thread() is threading.main_thread()
        if main and not self._shared:
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _take(self, number: int, frame: Any) -> None:
        self.told = True

    def due(self, step: int) -> bool:
        """Whether to stop after this step; every process asks, at every step."""
        if self._shared:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.told
