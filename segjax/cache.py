"""The user's cache folder: what was computed once and is slow to compute again."""

import hashlib
import os
import platform
from pathlib import Path


def folder(name: str) -> Path:
    """The cache's sub-folder ``name``, made if need be; only the user may enter it.

    ``SEGJAX_CACHE`` names the cache; without it, ``segjax`` in ``XDG_CACHE_HOME`` or in
    ``~/.cache``. Compiled programs lie in it and are executed, hence the mode 0700.

    Raises:
      ValueError: it belongs to another user, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("SEGJAX_CACHE") or Path(base, "segjax"))
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = root.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ValueError(
            f"the cache folder {root} can be written by others, and programs in it are "
            f"executed; chmod 700 {root}, or name another by SEGJAX_CACHE"
        )
    path = root / name
    path.mkdir(exist_ok=True, mode=0o700)
    return path


def _machine() -> str:
    """What a CPU program may rely on: another processor may lack an instruction."""
    text = platform.machine() + platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        text += "".join(sorted({x for x in lines if x.startswith(("flags", "model"))}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def keep_compiled() -> Path | None:
    """Let JAX keep compiled programs from run to run; returns their folder.

    A folder that JAX was given already (JAX_COMPILATION_CACHE_DIR) stays. None: there
    is nowhere to keep them, and every run compiles anew.

    Raises:
      ValueError: the cache folder can be written by others.
    """
    import jax

    given = jax.config.jax_compilation_cache_dir  # pyright: ignore
    if given:
        return Path(given)
    try:
        path = folder("compiled") / _machine()
        path.mkdir(exist_ok=True, mode=0o700)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Dozens of small programs take a fifth of a second each at start-up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return path
