"""Settings for every test: eight virtual CPU devices, no silent broadcasting."""

import os
import tempfile

flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiled programs are shared by the tests of one run (and its workers), not longer.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
_CACHE = tempfile.TemporaryDirectory(prefix=f"segjax-tests-{_RUN}-")
jax.config.update(
    "jax_compilation_cache_dir", os.environ.setdefault("SEGJAX_TEST_CACHE", _CACHE.name)
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whatever asks for a peer is a parity test, so that none is left out of CI."""
    for item in items:
        if "require_parity" in item.function.__code__.co_names:
            item.add_marker("parity")
