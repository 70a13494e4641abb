"""Does classification help segmentation? One encoder, with and without it.

    python -m benchmarks.classify_first [--minutes 30] [--only 'scratch *']

Question: few labelled scenes are at hand for segmentation, but many images of which
only the class is known. Hypothesis: an encoder that first learnt the classes gives a
better segmentation than a fresh one, all else equal.
"classifier": configs/shape_classes_resnet18.py, 3000 scenes of one object with six
classes, in 1600 steps. "scratch" and "classified": configs/resnet_unet.py on 60 scenes
with labels in 120 steps, from random weights and from the classifier's encoder, at
eight seeds each; all at 48x48. What differs is model.pretrained alone. (After 320
steps, top-1 62 %, eight seeds could not tell: +0.020, p = 0.18.)
Record: docs/results/classify_first.json; called again it goes on.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from segjax import config as configs
from segjax.train import train

RECORD = record.ROOT / "docs" / "results" / "classify_first.json"
RUNS = Path("runs", "classify_first")
CONFIGS = record.ROOT / "configs"
SIZE = ("data.image_size=48", "logs.tensorboard=False")
FEW = (*SIZE, "steps=120", "data.shapes.train_examples=60")
SEEDS = tuple(range(8))


def load(name: str, *overrides: str) -> Any:
    """A config of configs/ with overrides."""
    texts = [f"--config.{text}" for text in overrides]
    return configs.load(str(CONFIGS / f"{name}.py"), texts)


def classifier() -> dict[str, Any]:
    """A row; a run that is there is not trained again."""
    done = RUNS / "classifier" / "result.json"
    if done.is_file():
        result = json.loads(done.read_text())
    else:
        config = load("shape_classes_resnet18", *SIZE, "steps=1600")
        result = train(config, RUNS / "classifier")
    return {key: result[key] for key in ("top1", "top5", "steps")}


def segmentation(seed: int, classified: bool) -> dict[str, Any]:
    """A row: one run of an arm."""
    overrides, arm = [*FEW, f"seed={seed}"], "scratch"
    if classified:
        classifier()
        arm = "classified"
        overrides.append(f"model.pretrained={RUNS / 'classifier'}")
    workdir = RUNS / f"{arm}-{seed}"
    result = train(load("resnet_unet", *overrides), workdir)
    keys = ("miou", "pixel_accuracy", "iou_per_class", "steps")
    return {"arm": arm, "seed": seed} | {key: result[key] for key in keys}


def cases() -> dict[str, Any]:
    """Key of a row -> the function that measures it; the arms take turns."""
    found: dict[str, Any] = {"classifier": classifier}
    for seed in SEEDS:
        for arm, classified in (("scratch", False), ("classified", True)):
            found[f"{arm} {seed}"] = partial(segmentation, seed, classified)
    return found


def scores(rows: Mapping[str, Any], arm: str) -> np.ndarray:
    """The mIoU of an arm's runs, by seed."""
    return np.array([r["miou"] for r in rows.values() if r.get("arm") == arm])


def told(values: np.ndarray) -> str:
    """The mean, and the standard deviation over the seeds where there are several."""
    if not len(values):
        return "-"
    spread = f" +- {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def render(found: Mapping[str, Any]) -> str:
    """Both arms side by side."""
    lines = []
    for arm in ("scratch", "classified"):
        values = scores(found["rows"], arm)
        each = " ".join(f"{value:.3f}" for value in values)
        lines.append((arm, told(values), each))
    return record.table(("encoder", "mIoU", "seeds"), lines)


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    command = "python -m benchmarks.classify_first"
    return record.carry_out(RECORD, cases(), command, parser.parse_args(), render)


if __name__ == "__main__":
    sys.exit(main())
