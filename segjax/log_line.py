"""The next line of the log: what the steps since the last one sum up to."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_OF_A_STEP = ("loss", "gradient_norm", "skipped")


@dataclass
class LogLine:
    """The sums that the next line of the log is made of; skipped steps are counted.

    ``counts`` are int64 sums of what the steps count (hits, confusion matrices).
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take one step's fetched metrics."""
        taken = not metrics["skipped"]
        for key in metrics.keys() - set(_OF_A_STEP):
            # Zeros of a skipped step: the line has its counts, of nothing.
            count = np.asarray(metrics[key], np.int64) * taken
            self.counts[key] = self.counts.get(key, 0) + count
        if taken:
            self.losses.append(float(metrics["loss"]))
            self.norms.append(float(metrics["gradient_norm"]))
        else:
            self.skipped += 1

    def scalars(self) -> dict[str, float | None]:
        """The means and the number skipped; None where there is nothing to average."""
        return {
            "loss": float(np.mean(self.losses)) if self.losses else None,
            "gradient_norm": float(np.mean(self.norms)) if self.norms else None,
            "skipped": self.skipped,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, kept with a checkpoint: a resumed run goes on with the line.

        Without it the line of the log after a resume would be of fewer steps than that
        of a run never stopped. JSON gives every float back bit for bit.
        """
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "skipped": self.skipped,
            "counts": {key: count.tolist() for key, count in self.counts.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LogLine":
        """The line that :meth:`to_dict` describes; empty where there is nothing."""
        if not values:
            return cls()
        counts = {k: np.asarray(v, np.int64) for k, v in values["counts"].items()}
        losses = [float(x) for x in values["losses"]]
        norms = [float(x) for x in values["norms"]]
        return cls(losses, norms, int(values["skipped"]), counts)


def introduction(sources: Mapping[str, Sized], names: Sequence[str]) -> str:
    """What a run begins with, told before its first wait: compiling takes the longest.

    ``sources`` by split; ``names`` of the classes.
    """
    examples = ", ".join(f"{len(one)} of {split}" for split, one in sources.items())
    shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
    return (
        f"examples: {examples}; {len(names)} classes: {shown}; compiling the train step"
    )
