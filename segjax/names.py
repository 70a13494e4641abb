"""Names that a user wrote: known, or an error that says which one was meant."""

import difflib
from collections.abc import Iterable


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
      ValueError: one line with the nearest known name and all of them.
    """
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"unknown {what} '{name}'{hint}; known: {', '.join(known)}")
