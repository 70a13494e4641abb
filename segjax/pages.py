"""Large memory pages for XLA:CPU: glibc takes the wish only before a process starts."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb"
SWITCH = "SEGJAX_HUGETLB"


def _glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


def use_huge_pages() -> None:
    """Start this program anew with ``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``, once.

    Large arrays then lie in transparent huge pages, without which XLA:CPU's passes over
    memory wait for page faults (docs/speed.md). Only on Linux with glibc; a
    GLIBC_TUNABLES that names the tunable already stays, so the second start goes on,
    and ``SEGJAX_HUGETLB=0`` switches it off.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if os.environ.get(SWITCH) == "0" or TUNABLE in given:
        return
    if not (sys.platform == "linux" and _glibc() and sys.executable):
        return
    wanted = f"{given}:{TUNABLE}=1" if given else f"{TUNABLE}=1"
    environment = {**os.environ, "GLIBC_TUNABLES": wanted}
    sys.stdout.flush()
    sys.stderr.flush()
    # The same interpreter, options and program: python -m segjax.main, or the script.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
