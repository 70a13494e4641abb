"""SIGTERM: a note for the loop, and nothing else."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from segjax.stopping import EXIT_CODE, Stopping, Terminated

ROOT = Path(__file__).parents[1]


def test_signals_are_noted_and_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        assert not stopping.due(1)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.due(2) and stopping.due(3)
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_that_python_drops_is_heard_at_the_next_step():
    before = signal.getsignal(signal.SIGINT)
    with Stopping() as stopping:
        # As a finaliser or a callback from C would.
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stopping.due(1)
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_the_program_keeps_its_handler():
    found = []

    def enter():
        with Stopping() as stopping:
            found.append((signal.getsignal(signal.SIGTERM), stopping.due(1)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), False)]


def test_the_exit_code_is_that_of_a_terminated_process():
    with pytest.raises(SystemExit) as stop:
        raise Terminated
    assert stop.value.code == EXIT_CODE == 143


SHARED = """
    import os, signal, sys, time
    import jax
    jax.distributed.initialize(
        f"localhost:{sys.argv[1]}", 1, 0, heartbeat_timeout_seconds=30
    )
    from segjax.stopping import Stopping
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline, step = time.monotonic() + 30, 0
        while not stopping.due(step) and time.monotonic() < deadline:
            time.sleep(0.01)
            step += 1
        os.kill(os.getpid(), signal.SIGTERM)
        print("stopped at", step, flush=True)
"""


def test_jaxs_preemption_service_decides_where_it_runs():
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARED), str(port)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "stopped at" in done.stdout, done.stderr
