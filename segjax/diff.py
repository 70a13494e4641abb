"""``segjax diff A B``: the minimal difference of two runs, as text and exit code.

A run is its workdir, or FOLDER:VARIANT-SEED of a study's results
(``experiments/results/decoders:unet-0``). What is compared is what a result depends on:
config, data, code, versions, platform. Equal runs that gave other results are told too.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segjax import config as configs

Facts = dict[str, dict[str, Any]]
"""Section -> key -> value."""

SECTIONS = ("config", "data", "code", "versions", "platform")
OF_RESULT = ("miou", "pixel_accuracy", "loss")
FILES = 8  # changed files that are listed
ABSENT = object()  # a key that one of the two has not


def read(name: str) -> Facts:
    """What is known of a run.

    Raises:
      ValueError: there is no such run.
    """
    path = Path(name)
    if path.is_dir():
        return _of_workdir(path)
    folder, colon, run = name.rpartition(":")
    if colon and (Path(folder) / "runs.jsonl").is_file():
        return _of_study(Path(folder) / "runs.jsonl", run)
    raise ValueError(
        f"{name} is neither a run's workdir nor FOLDER:VARIANT-SEED of a study's "
        "results, such as experiments/results/decoders:unet-0"
    )


def _of_workdir(path: Path) -> Facts:
    for needed in ("config.json", "labels.json"):
        if not (path / needed).is_file():
            raise ValueError(f"{path}: no {needed}; is it a run's workdir?")
    config = configs.from_json((path / "config.json").read_text())
    labels = configs.flatten(json.loads((path / "labels.json").read_text()))
    finished = path / "result.json"
    result = json.loads(finished.read_text()) if finished.is_file() else {}
    data = {f"labels.{key}": value for key, value in labels.items()}
    data |= {key: result[key] for key in ("split", "pixels") if key in result}
    # The truth's share per class tells other labels under the same name.
    data |= {
        f"share.{key}": value
        for key, value in result.get("share_per_class", {}).items()
    }
    return {"config": configs.flatten(config), "data": data, **_made_with(result)}


def _of_study(path: Path, run: str) -> Facts:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    runs = {f"{line['variant']}-{line['seed']}": line for line in lines}
    if run not in runs:
        raise ValueError(
            f"{path} has no run {run!r}{configs.nearest(run, runs)}; it has "
            f"{', '.join(runs)}"
        )
    line = runs[run]
    config = configs.flatten(configs.default()) | line["config"]
    data = {key: line[key] for key in ("split", "pixels")}
    data |= {f"images.{key}": value for key, value in line["data"].items()}
    return {"config": config, "data": data, **_made_with(line)}


def _made_with(result: Mapping[str, Any]) -> Facts:
    """Code, versions, platform and scores; nothing of a run that is not finished."""
    environment = result.get("environment", {})
    git = environment.get("git") or {}
    return {
        "code": {"commit": git.get("commit"), "changed": git.get("dirty", False)},
        "versions": environment.get("versions", {}),
        "platform": environment.get("platform", {}),
        "result": {key: result[key] for key in OF_RESULT if key in result},
    }


def differences(first: Facts, second: Facts) -> dict[str, tuple[Any, Any]]:
    """Section.key -> both values, for what a result depends on.

    Of data only what both have is compared: a workdir and a study's line keep different
    things. Two commits whose segjax/ is the same are the same code.
    """
    found = {}
    for section in SECTIONS:
        ours, theirs = first[section], second[section]
        keys = {*ours} & {*theirs} if section == "data" else {*ours, *theirs}
        keys -= {"changed"}
        for key in sorted(keys):
            pair = ours.get(key, ABSENT), theirs.get(key, ABSENT)
            if pair[0] != pair[1]:
                found[f"{section}.{key}"] = pair
    commits = found.get("code.commit")
    if commits and changed_files(*commits) == []:
        del found["code.commit"]
    return found


def changed_files(first: Any, second: Any) -> list[str] | None:
    """Files of segjax/ that differ between two commits; None: not to be found out."""
    if not (isinstance(first, str) and isinstance(second, str)):
        return None
    names = ["git", "diff", "--name-only", first, second, "--", "segjax"]
    try:
        done = subprocess.run(
            names,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.split()


def _text(value: Any) -> str:
    text = "absent" if value is ABSENT else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def report(first: Facts, second: Facts) -> tuple[list[str], bool]:
    """The lines to print, and whether the runs are the same."""
    found = differences(first, second)
    lines = [f"{key}: {_text(a)} | {_text(b)}" for key, (a, b) in found.items()]
    if "code.commit" in found:
        files = changed_files(*found["code.commit"]) or []
        shown = " ".join(files[:FILES]) + " ..." * (len(files) > FILES)
        lines += [f"code.files: {shown}"] if files else []
    if first["code"]["changed"] or second["code"]["changed"]:
        lines.append("code: uncommitted changes, which nobody can compare")
        found["code"] = (first["code"]["changed"], second["code"]["changed"])
    ours, theirs = first["result"], second["result"]
    moved = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    for key in moved:
        change = theirs[key] - ours[key]
        lines.append(
            f"result.{key}: {ours[key]:.6f} | {theirs[key]:.6f} ({change:+.6f})"
        )
    if moved and not found:
        lines.append("results differ though nothing that is recorded does")
    return lines, not found and not moved


def diff(first: str, second: str) -> bool:
    """Print how two runs differ; whether they are the same.

    Raises:
      ValueError: one of them is no run.
    """
    lines, same = report(read(first), read(second))
    for line in lines:
        print(line)
    return same
