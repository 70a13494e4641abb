"""The layout of a checkpoints folder: steps, metrics, which is best."""

import json
from collections.abc import Sequence
from pathlib import Path

from etils import epath

ITEM = "default"  # the folder that orbax gives to the only item of a step
METRICS = "metrics/metrics"  # where orbax writes a step's metrics
NOTES = "notes.json"  # what the run wants back with the state


def steps_in(directory: epath.Path) -> list[int]:
    """The complete checkpoints of a folder, the newest last."""
    if not directory.exists():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def read_metrics(path: epath.Path) -> dict[str, float] | None:
    """A step's metrics; None where there are none or they cannot be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def best_step(directory: epath.Path, steps: Sequence[int], metric: str) -> int | None:
    """The step with the largest metric, the later of equals; None: no step has it."""
    scores = {
        step: read_metrics(directory / str(step) / METRICS) or {} for step in steps
    }
    scored = [(scores[step][metric], step) for step in steps if metric in scores[step]]
    return max(scored)[1] if scored else None


def file_of_run(path: Path, name: str) -> Path | None:
    """A file of the run whose workdir, checkpoints/ or checkpoint ``path`` is.

    Of a path that is a file, one beside it. None: there is none.
    """
    for folder in (path, *path.absolute().parents[: 1 + path.is_dir()]):
        if (folder / name).is_file():
            return folder / name
    return None


def find_step(
    path: str | Path, step: int | str = "best", metric: str = "miou"
) -> epath.Path:
    """The folder of one checkpoint, from a workdir, its checkpoints/ or the folder.

    ``step`` is a number, "latest", or "best" (the newest where none has a metric).

    Raises:
      ValueError: there is no such checkpoint.
    """
    root = epath.Path(path).absolute()
    if (root / ITEM).exists():
        return root
    directory = root / "checkpoints" if (root / "checkpoints").exists() else root
    steps = steps_in(directory)
    if not steps:
        raise ValueError(
            f"{path} holds no checkpoint; name a workdir, its checkpoints folder or "
            "the folder of one step"
        )
    found = str(step)
    if step in ("best", "latest"):
        best = best_step(directory, steps, metric) if step == "best" else None
        found = str(max(steps) if best is None else best)
    if found not in map(str, steps):
        raise ValueError(
            f"{directory} has no checkpoint {found!r}; write best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )
    return directory / found
