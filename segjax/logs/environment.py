"""What a number was measured with: versions, commit, processor, devices."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "segjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Describe this process: ``versions``, ``git``, ``platform`` (plain JSON values).

    ``git`` is ``{"commit", "dirty"}`` of the repository that holds the package, or
    None when it is not a checkout. Asking for the devices starts JAX's backend.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "git": git_state(Path(__file__).parents[1]),
        "platform": _platform(),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if found["segjax"] is None:  # run from a checkout that is not installed
        import segjax

        found["segjax"] = segjax.__version__
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of ``folder``'s repo, and whether its tracked files differ.

    Records in docs/ and the results of studies do not count.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed under some other project's folder (a virtual environment
    # inside a checkout) is not that project's: its files are not tracked there.
    if not git("ls-files", "--", "."):
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    # Records are written while a benchmark goes on: they do not change what it runs.
    records = ("docs", "experiments/results", "experiments/README.md")
    paths = (":(top)", *(f":(top,exclude){path}" for path in records))
    dirty = bool(git("status", "--porcelain", "-uno", "--", *paths))
    return {"commit": commit, "dirty": dirty}


def _platform() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "backend": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, as far as the system tells."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
