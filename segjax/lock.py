"""One run per workdir: a lock that ends with the process that holds it."""

import errno
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO

FILE = "lock"

# What file systems answer that know no locks (some network file systems).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """Makes a workdir and holds it, until :meth:`close` or the end of the process.

    The lock is ``flock`` on the file ``lock`` in the folder: the kernel takes it back
    from a process that ends in whatever way, so that no stale one has to be removed by
    hand. Child processes do not inherit it. The file stays; it says who held the
    workdir last. Of a run of several processes only process 0 takes it.

    Raises:
      ValueError: the folder cannot be made or written, or another process holds it.
    """

    def __init__(self, workdir: Path):
        self.path = workdir / FILE
        self._file: IO[bytes] | None = None
        holder = {"process": os.getpid(), "host": socket.gethostname()}
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            # No buffer: what a full disk did not take is not tried again on close.
            self._file = self.path.open("ab+", buffering=0)
            if _taken(self._file):
                self._file.truncate(0)
                self._file.write(json.dumps(holder).encode())
                return
        except OSError as error:
            self.close()
            raise ValueError(
                f"--workdir {workdir} cannot be written ({error.strerror}); make room, "
                "change its permissions, or name another"
            ) from error
        self._file.seek(0)
        found = self._file.read()
        self.close()
        raise ValueError(
            f"--workdir {workdir} is in use by {_described(found)}; wait for that run, "
            "stop it, or name another --workdir"
        )

    def close(self) -> None:
        """Let others in."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _taken(file: IO[bytes]) -> bool:
    """Try to lock the file; True also where nothing can be locked."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _described(holder: bytes) -> str:
    """Who holds it, as far as the file says."""
    try:
        found = json.loads(holder)
        return f"process {found['process']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
