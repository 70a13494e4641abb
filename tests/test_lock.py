"""The lock of a workdir: one holder, and none that is dead."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

from segjax.lock import Lock

ROOT = Path(__file__).parents[1]


def test_the_second_is_refused_until_the_first_lets_go(tmp_path):
    with Lock(tmp_path / "new" / "run") as first:
        for _ in range(2):  # a refusal does not take the lock or its words away
            with pytest.raises(ValueError, match=f"process {os.getpid()} on ") as error:
                Lock(tmp_path / "new" / "run")
            assert "\n" not in str(error.value)
        assert first.path.is_file()
    Lock(tmp_path / "new" / "run").close()


HOLDER = """
    import subprocess, sys, time
    from segjax.lock import Lock
    lock = Lock(__import__("pathlib").Path(sys.argv[1]))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing_although_its_child_lives(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(ValueError, match=f"process {holder.pid} on "):
            Lock(tmp_path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        Lock(tmp_path).close()
    finally:
        holder.kill()
        holder.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_file_systems_without_locks_are_taken_as_they_are(tmp_path, monkeypatch):
    import errno
    import fcntl

    def unknown(file, how):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    Lock(tmp_path).close()


def test_what_a_damaged_file_says_is_not_repeated(tmp_path):
    with Lock(tmp_path) as held:
        held.path.write_text("{nonsense")
        with pytest.raises(ValueError, match="is in use by another process"):
            Lock(tmp_path)


@contextmanager
def without_privileges(folder):
    """Modes bind: root passes them by, so it becomes another user for a while."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(mode)


@pytest.mark.parametrize("below", ["", "deeper/run"])
def test_a_workdir_without_permission_is_one_line(below):
    # Not pytest's tmp_path, whose parents are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder)
        with without_privileges(closed):
            with pytest.raises(ValueError, match="cannot be written .Permission den"):
                Lock(closed / below)
        assert list(closed.iterdir()) == []


def test_a_workdir_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/run cannot be written \(Not a dir"):
        Lock(tmp_path / "file" / "run")
