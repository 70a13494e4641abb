"""The exact versions that studies are run with: requirements.lock.

    python -m experiments.lock > requirements.lock     # from what is installed here
    pip install -r requirements.lock                   # the same elsewhere

It holds what segjax and its extras below need, and what that needs in turn, as this
environment has them. A run's line names every version that is not the lock's.
"""

import importlib.metadata
import platform
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("experiments", "weights", "fast")
ROOT = Path(__file__).parents[1]
PATH = ROOT / "requirements.lock"


def direct(extras=EXTRAS) -> set[str]:
    """Names that segjax itself asks for, with these extras."""
    return {name for name, _ in _needed(_own(extras), frozenset())}


def _own(extras) -> list[str]:
    """The requirements in pyproject.toml: an installation may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(r for extra in extras for r in optional[extra])]


def _needed(
    requirements: Iterable[str], extras: frozenset[str]
) -> set[tuple[str, frozenset[str]]]:
    """(name, extras) of requirements that hold on this platform."""
    found = set()
    for requirement in requirements:
        needed = Requirement(requirement)
        if needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            name = canonicalize_name(needed.name)
            found.add((name, frozenset(needed.extras)))
    return found


def resolve(extras=EXTRAS) -> dict[str, str]:
    """Name -> installed version of all that is needed, without segjax itself.

    Raises:
      ValueError: something needed is not installed.
    """
    versions, waiting = {}, [*_needed(_own(extras), frozenset())]
    seen = set(waiting)
    while waiting:
        name, wanted = waiting.pop()
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            listed = ",".join(extras)
            raise ValueError(
                f"{name} is not installed; pip install -e '.[{listed}]' first"
            ) from None
        requirements = importlib.metadata.requires(name) or ()
        new = _needed(requirements, wanted) - seen
        seen |= new
        waiting += new
    return dict(sorted(versions.items()))


def read(path: Path = PATH) -> dict[str, str]:
    """Name -> version of a lock file.

    Raises:
      ValueError: a line is not NAME==VERSION.
    """
    versions = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        pin = line.partition("#")[0].strip()
        if not pin:
            continue
        form = re.fullmatch(r"([a-z0-9][a-z0-9.-]*)==([\w.+!-]+)", pin)
        if form is None:
            raise ValueError(f"{path}:{number}: {pin!r} is not name==version")
        versions[form[1]] = form[2]
    return versions


def differences(path: Path = PATH) -> list[str]:
    """What this environment has otherwise than the lock file: 'jax 0.10.3, not 0.10.2'.

    Empty where it is as locked. Python's own version stands in the file's head.
    """
    python = re.search(r"^# Python ([^,\s]+),", path.read_text(), re.MULTILINE)
    found, running = [], platform.python_version()
    if python is not None and python[1] != running:
        found.append(f"python {running}, not {python[1]}")
    for name, version in read(path).items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = "missing"
        if here != version:
            found.append(f"{name} {here}, not {version}")
    return found


def text(versions: dict[str, str]) -> str:
    """The file."""
    head = (
        "# Of studies. By: python -m experiments.lock > requirements.lock",
        f"# Python {platform.python_version()}, {sys.platform} {platform.machine()}; "
        f"segjax[{','.join(EXTRAS)}] and what it needs",
    )
    lines = [f"{name}=={version}" for name, version in versions.items()]
    return "\n".join((*head, *lines)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text(resolve()))
