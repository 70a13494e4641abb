"""The user's cache folder: what was computed once and is slow to compute again."""

import os
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
