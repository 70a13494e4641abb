"""Several processes of one run: found, joined, and left when one of them is gone.

============  ====================================  ============================
where         how it is known                       what the launcher does
============  ====================================  ============================
by hand       ``--coordinator --processes           one command per process
              --process``
SLURM         ``SLURM_STEP_NUM_TASKS`` above 1      ``srun segjax train ...``
Open MPI      ``OMPI_COMM_WORLD_SIZE`` above 1      ``mpirun segjax train ...``
Cloud TPU     chips under /dev/accel* or            the same command on every
              /dev/vfio/*, and libtpu installed     host of the slice
otherwise     ``SEGJAX_DISTRIBUTED=1``              JAX looks for the others
============  ====================================  ============================

``SEGJAX_DISTRIBUTED=0`` looks for nobody.
"""

import ctypes
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path

SWITCH = "SEGJAX_DISTRIBUTED"
HEARTBEAT_SECONDS = 30
"""Without a sign of life for so long a process counts as gone (JAX's default: 100)."""
PEER_LOST = 3
"""Exit code of a process that ends because another one did."""
_SIGNS = (
    "gloo",
    "connection closed by peer",
    "connection reset by peer",
    "coordination service",
    "heartbeat",
    "task is unavailable",
    "nccl",
)
"""Of a runtime's message, in lower case."""


def found_by(environment: Mapping[str, str]) -> str | None:
    """By what this process knows that it is one of several; None: it is alone."""
    if environment.get(SWITCH) in ("0", "1"):
        return SWITCH if environment[SWITCH] == "1" else None
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if int(environment.get(name) or 1) > 1:
            return name
    # A host of one slice or the only one: JAX asks the machine's metadata which.
    if environment.get("JAX_PLATFORMS", "tpu").split(",")[0] == "tpu" and _has_tpu():
        return "TPU"
    return None


def _has_tpu() -> bool:
    chips = glob("/dev/accel[0-9]*") or glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Join the other processes of the run, where there are any.

    Raises:
      ValueError: some of the three are given, or they make no sense.
    """
    given = (coordinator, processes, process)
    if all(value is None for value in given):
        if found_by(os.environ) is None:
            return
    elif coordinator is None or processes is None or process is None:
        raise ValueError(
            "--coordinator HOST:PORT, --processes N and --process I go together: every "
            "process gets the same first two, and its own number from 0 to N-1"
        )
    elif not 0 <= process < processes:
        raise ValueError(
            f"--process {process} is not one of the {processes} processes; they are "
            f"counted from 0 to {processes - 1}"
        )
    import jax

    _speak_at_abort()
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


_LOST = (
    "segjax: another process of this run is gone or cannot be reached; start all of "
    "them again with the same command: the run goes on from its last checkpoint"
)
_handlers = []  # C keeps only their addresses


def _speak_at_abort() -> None:
    """Make the runtime's abort a line and the exit code PEER_LOST.

    A process that waits at a barrier for one that is gone is aborted from C++, by a
    thread that watches the heartbeats: there is no exception to catch.
    """

    def speak(number: int) -> None:
        os.write(2, f"{_LOST}\n".encode())
        os._exit(PEER_LOST)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _handlers.append(handler)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


@dataclass
class Ending:
    """The exit code that a command came to."""

    code: int = 0


@contextmanager
def ended_at_once(by: bool = True) -> Iterator[Ending]:
    """A process of several that fails within ends here, and an ended peer is told of.

    JAX's own shutdown waits for the other processes, up to five minutes, and they for
    this one: a process that fails has to end without it. Whatever the runtime raises
    because a peer is gone becomes one line and the exit code PEER_LOST. With ``by``
    False (called from a program of the user's) nothing ends.
    """
    ending = Ending()
    try:
        yield ending
    except Exception as error:
        if not (by and _is_one_of_several()):
            raise
        ending.code = 1
        if is_of_a_lost_peer(error):
            ending.code = PEER_LOST
            print(f"{_one_line(error)}\n{_LOST}", file=sys.stderr)
        else:
            traceback.print_exc()
    if ending.code and by and _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending.code)


def raised_here(error: BaseException) -> bool:
    """Whether segjax itself raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parent)
    return bool(frames) and frames[-1].filename.startswith(here)


def is_of_a_lost_peer(error: BaseException) -> bool:
    """Whether the runtime raised it for want of another process."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        # A path may be called "heartbeat": only the runtime's own words count.
        named = isinstance(cause, OSError) and cause.filename is not None
        user = isinstance(cause, ValueError | OSError) and raised_here(cause)
        if not (named or user):
            texts.append(f"{type(cause).__name__}: {cause}".lower())
        cause = cause.__cause__ or cause.__context__
    return any(sign in text for text in texts for sign in _SIGNS)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
