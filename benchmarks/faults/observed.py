"""segjax with a witness: what a run does, and which bytes it is fed, in a trace.

    SEGJAX_TRACE=FILE python -m benchmarks.faults.observed train --config ...

The run is segjax.main's; its events are told at begin and end, and of every batch that
goes to the devices the CRC-32 of its bytes. Each is one line of JSON, written in one
call, so that it survives the process.
"""

import functools
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

EVENTS = ("open", "compile", "advance", "log", "evaluate", "save", "finish")


class Trace:
    """Appends lines to a file."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def tell(self, what: str, **values: Any) -> None:
        """One line; the time is the system's, which the observer's is, too."""
        line = {"time": time.time(), "what": what, **values}
        os.write(self._file, (json.dumps(line) + "\n").encode())


def told(trace: Trace, name: str, method: Callable) -> Callable:
    """The method, between two lines."""

    @functools.wraps(method)
    def both(run: Any, *args: Any) -> Any:
        trace.tell(name, at="begin", step=getattr(run, "step", 0))
        found = method(run, *args)
        trace.tell(name, at="end", step=getattr(run, "step", 0))
        return found

    return both


def checksummed(trace: Trace, batches: Callable) -> Callable:
    """setup.train_batches, with a line about each batch."""

    def observed(config: Any, source: Any, start: int, mesh: Any) -> Iterator[Any]:
        for step, batch in enumerate(batches(config, source, start, mesh), start):
            checksum = 0
            for key in sorted(batch):
                checksum = zlib.crc32(batch[key].tobytes(), checksum)
            trace.tell("batch", step=step, crc32=checksum)
            yield batch

    return observed


def main() -> int:
    """Run segjax's command line under observation."""
    trace = Trace(os.environ["SEGJAX_TRACE"])
    trace.tell("start")
    from segjax import main as segjax
    from segjax import setup, train

    for name in EVENTS:
        setattr(train.Run, name, told(trace, name, getattr(train.Run, name)))
    setup.train_batches = checksummed(trace, setup.train_batches)
    return segjax.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
