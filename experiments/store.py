"""What is kept of a study's runs: a line of JSON and the confusion matrices of each.

``results/NAME/runs.jsonl`` has one line per finished run; ``counts/VARIANT-SEED.npz``
the confusion matrix of each evaluation image; ``checks.jsonl`` a line per run that was
made again. The first two are there whole or not at all,
whenever a process is killed: files are moved into place, the matrices before the line.
"""

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "results"


class Store:
    """The results of one study in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "runs.jsonl"

    def runs(self) -> dict[tuple[str, int], dict[str, Any]]:
        """(variant, seed) -> its line.

        Raises:
          ValueError: a line that is none of ours.
        """
        found = {}
        if self.path.is_file():
            for number, text in enumerate(self.path.read_text().splitlines(), 1):
                try:
                    line = json.loads(text)
                    found[line["variant"], line["seed"]] = line
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(
                        f"{self.path}:{number} is no run's line; remove it"
                    ) from error
        return found

    def add(self, line: Mapping[str, Any], counts: Path) -> None:
        """Keep a finished run; an earlier one of that variant and seed is replaced."""
        key = line["variant"], line["seed"]
        with self._locked():
            target = self.counts_path(*key)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_suffix(".tmp")
            shutil.copyfile(counts, temporary)
            _into_place(temporary, target)
            runs = {**self.runs(), key: dict(line)}
            lines = [json.dumps(run, allow_nan=False) for run in runs.values()]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(text + "\n" for text in lines))
            _into_place(temporary, self.path)

    def checks(
        self, runs: Mapping[tuple[str, int], Mapping[str, Any]]
    ) -> tuple[dict[str, Any], ...]:
        """The checks of these runs, in their order; none of runs since replaced."""
        path = self.folder / "checks.jsonl"
        if not path.is_file():
            return ()
        lines = []
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                lines.append(json.loads(text))
            except ValueError as error:
                raise ValueError(
                    f"{path}:{number} is no check's line; remove it"
                ) from error
        keys = ((line, (line["variant"], line["seed"])) for line in lines)
        return tuple(
            line
            for line, key in keys
            if key in runs and runs[key]["finished"] == line["finished"]
        )

    def add_check(self, line: Mapping[str, Any]) -> None:
        """Note that a run was made again, and whether it came out the same."""
        with self._locked(), (self.folder / "checks.jsonl").open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def counts_path(self, variant: str, seed: int) -> Path:
        """Of the confusion matrices of a run."""
        return self.folder / "counts" / f"{variant}-{seed}.npz"

    def counts(self, variant: str, seed: int) -> dict[str, np.ndarray]:
        """``counts`` int32[N, K, K], ``names`` of the classes, ``ids`` of the images.

        Raises:
          ValueError: they are missing.
        """
        path = self.counts_path(variant, seed)
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, but its run is in {self.path}; restore it or take "
                "the line out, to have it run again"
            )
        try:
            with path.open("rb") as file, np.load(file) as found:
                return dict(found)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is damaged ({error}); restore it, or remove it and its run's "
                f"line in {self.path}, to have it run again"
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            yield


def _into_place(temporary: Path, target: Path) -> None:
    """Move a file, after its content is on disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold a lock until the end, and for as long as a child keeps the descriptor.

    Raises:
      BlockingIOError: another process holds it, and ``wait`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()
