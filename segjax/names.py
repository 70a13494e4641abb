"""Names that a user wrote, known or an error; and names of files that are written."""

import difflib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_DOTS = (".", "..")


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


def output_names(
    paths: Sequence[PurePosixPath],
    endings: Sequence[str],
    folders: Sequence[bool] | None = None,
    taken: Iterable[str] = ("boxes.json", "predictions.json"),
) -> list[str]:
    """A name for each path, such that no two outputs are the same file.

    It is the path without its suffix; with it where another has the same stem; else a
    numbered one. Upper and lower case count as the same, as some systems have it.
    ``folders`` says for which of them a whole folder is written; ``taken`` are files
    that are written besides.
    """
    folders = folders or [False] * len(paths)
    safe = [_inside(path) for path in paths]
    stems = Counter(str(path.with_suffix("")).casefold() for path in safe)
    outputs, parents = set(taken), set()
    names = []
    for path, folder in zip(safe, folders, strict=True):
        stem = str(path.with_suffix(""))
        candidates = itertools.chain(
            [stem] if stems[stem.casefold()] == 1 and path.stem not in _DOTS else [],
            [str(path)],
            (f"{path.name}-{n}" for n in itertools.count(2)),
        )
        for name in candidates:
            own = {f"{name}{end}.png".casefold() for end in endings}
            above = {str(p) for p in PurePosixPath(name.casefold()).parents} - {"."}
            if folder:
                own = {name.casefold()}
            if own & (outputs | parents) or above & outputs:
                continue
            outputs |= own
            parents |= above
            names.append(name)
            break
    return names


def _inside(path: PurePosixPath) -> PurePosixPath:
    """The path without what leads up or to the root: it stays below any folder."""
    parts = [part for part in path.parts if part not in _DOTS and "/" not in part]
    return PurePosixPath(*parts or ["_"])
