"""Settings for every test: eight virtual CPU devices, no silent broadcasting."""

import gc
import os
import resource
import signal
import tempfile
from contextlib import contextmanager

from tests.requirements import PEERS, require_parity, xla_flags

flags = os.environ.get("XLA_FLAGS", "")
for flag in xla_flags(8).split():
    if flag.partition("=")[0] not in flags:
        flags = f"{flags} {flag}"
os.environ["XLA_FLAGS"] = flags
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" in os.environ:  # PyTorch's threads; else each worker has all
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled programs are shared by the workers of one run of the tests, not longer: the
# first process, which starts the others, makes the folder and takes it away.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="segjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

# Tracing makes millions of objects that live; looking through them for cycles takes a
# fifth of its time.
gc.set_threshold(50_000, 20, 100)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whatever asks for a peer is a parity test, so that none is left out of CI."""
    for item in items:
        if "require_parity" in item.function.__code__.co_names:
            item.add_marker("parity")


def pytest_runtest_setup(item):
    """A parity test wants all of the extra, whatever it imports itself."""
    if item.get_closest_marker("parity"):
        for name in PEERS:
            require_parity(name)


@pytest.fixture
def full_disk():
    """A function of a number of bytes: within it no file can grow beyond that.

    Writing more fails as on a full disk, with another errno, and needs no mount.
    """

    @contextmanager
    def limited(size: int):
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
