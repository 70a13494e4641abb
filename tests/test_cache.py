"""The cache folder: where it is, whose it is, and that programs are kept in it."""

import os
import subprocess
import sys

import pytest

from segjax import cache

PROGRAM = """
import jax, jax.monitoring
from segjax import cache
print(cache.keep_compiled())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def test_the_cache_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGJAX_CACHE", str(tmp_path / "c"))
    folder = cache.folder("plans")
    assert folder == tmp_path / "c" / "plans"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o777)
    with pytest.raises(ValueError, match="chmod 700"):
        cache.folder("plans")
    monkeypatch.delenv("SEGJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder("plans") == tmp_path / "x" / "segjax" / "plans"


def run(environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    path, hits = done.stdout.split()
    return path, int(hits)


def test_compiled_programs_are_kept(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMP")}
    environment["SEGJAX_CACHE"] = str(tmp_path)
    path, hits = run(environment)
    assert path.startswith(str(tmp_path / "compiled")) and hits == 0
    again, hits = run(environment)
    assert again == path and hits > 0
    # The user's own setting wins; without a place for them nothing is kept.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    assert run(environment) == (str(tmp_path / "own"), 0)
    del environment["JAX_COMPILATION_CACHE_DIR"]
    (tmp_path / "file").write_text("")
    environment["SEGJAX_CACHE"] = str(tmp_path / "file" / "below")
    assert run(environment) == ("None", 0)
