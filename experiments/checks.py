"""Does a run that is made again come out the same? The lines of checks.jsonl.

Rounding differs between processors, so a run is compared with what the same platform
made of it: the recorded run, or else the first check there, which can only be noted.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

RECORD = "record"


def digest(counts: np.ndarray) -> str:
    """Of the confusion matrices int[N, K, K] of a run."""
    whole = np.ascontiguousarray(counts, np.int64)
    return hashlib.sha256(repr(whole.shape).encode() + whole.tobytes()).hexdigest()


def line(
    now: Mapping[str, Any],
    was: Mapping[str, Any],
    counts: np.ndarray,
    recorded_counts: np.ndarray,
    earlier: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """What is noted of a check.

    Args:
      now: the line of the run that was made again.
      was: its line in runs.jsonl.
      counts: its confusion matrices.
      recorded_counts: those of ``was``.
      earlier: the checks of ``was`` so far.

    Returns:
      ``same`` is None where nothing of this platform is there to compare with, and
      ``compared_with`` then, too; else that is :data:`RECORD` or the check's time.
    """
    key, platform = (was["variant"], was["seed"]), now["environment"]["platform"]
    found, told = {"loss": now["loss"], "counts": digest(counts)}, None
    first: Mapping[str, Any] | None = None
    if was["environment"]["platform"] == platform:
        told, first = RECORD, {"loss": was["loss"], "counts": digest(recorded_counts)}
    else:
        for check in earlier:
            there = check["environment"]["platform"] == platform and "counts" in check
            if there and (check["variant"], check["seed"]) == key:
                told, first = check["when"], check
                break
    same = None if first is None else all(first[k] == v for k, v in found.items())
    return {
        "variant": was["variant"],
        "seed": was["seed"],
        "same": same,
        "compared_with": told,
        "finished": was["finished"],
        "when": now["finished"],
        "miou": now["miou"],
        **found,
        "environment": now["environment"],
    }


def place(environment: Mapping[str, Any]) -> str:
    """Its threads, processor and jaxlib, and its devices where that is not one CPU."""
    found = environment["platform"]
    threads, processor = found["threads"], found["processor"]
    devices, kind = found.get("devices", 1), found.get("device_kind", "cpu")
    told = f"{threads} threads of {processor}, jaxlib {found['jaxlib']}"
    return told if (devices, kind) == (1, "cpu") else f"{told}, {devices} x {kind}"


def outcome(check: Mapping[str, Any], was: Mapping[str, Any]) -> str:
    """For whoever asked for the check, one line."""
    name, told = f"{check['variant']}-{check['seed']}", check["compared_with"]
    scores = f"mIoU {was['miou']:.6f} recorded, {check['miou']:.6f}"
    if check["same"] is None:
        here, there = place(check["environment"]), place(was["environment"])
        return (
            f"{name}: {scores} here, on another platform ({here}; recorded on "
            f"{there}): noted, for the next check here"
        )
    since = "" if told == RECORD else f" as at the check of {told}"
    if check["same"]:
        return f"{name}: the same, every pixel and the loss{since}"
    what = scores if told == RECORD else f"not the same{since}; {scores}"
    file = "runs.jsonl" if told == RECORD else "checks.jsonl"
    return f"{name}: {what} now; see in {file} what differs: versions, commit"


def repeated(checks: Sequence[Mapping[str, Any]]) -> str:
    """Sentences about the runs that were made a second time; "" where none was."""
    groups: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for check in checks:
        elsewhere = check.get("compared_with", RECORD) != RECORD
        where = place(check["environment"]) if elsewhere else RECORD
        groups.setdefault(where, {})[check["variant"], check["seed"]] = check
    return "".join(
        f" {_told(where, latest)}"
        for where, latest in sorted(groups.items(), key=_order)
    )


def _order(group: tuple[str, Any]) -> tuple[bool, str]:
    """The platform of the records first."""
    return group[0] != RECORD, group[0]


def _told(where: str, latest: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """One platform's sentence."""
    differ = [f"{v}-{s}" for (v, s), x in latest.items() if x["same"] is False]
    again = sum(x["same"] is not None for x in latest.values())
    days = sorted({x["when"][:10] for x in latest.values()})
    dates = f"({' to '.join(days[:: max(len(days) - 1, 1)])})"
    told = f"not the same: {', '.join(differ)}" if differ else "every pixel the same"
    if where == RECORD:
        return f"Run again by `--check`: {again}, {told} {dates}."
    more = f", {again} of them again, {told}" if again else ", none of them again yet"
    return f"On {where}: {len(latest)} made by `--check`{more} {dates}."
