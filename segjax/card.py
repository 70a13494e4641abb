"""The card of a result: under which protocol a number was measured.

Two numbers compare only if they were measured alike. ``protocol`` lists what that
means, each part under a key, and its ``id`` is a hash of all of them: which images and
labels, what the network saw of them, what it was trained on and from, how the
checkpoint was chosen, how it was applied, seed, code and versions. The network itself
is not among them: it is what one compares.

A *named* protocol fixes some of the parts, those of a published table.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segjax import checkpoint, logs
from segjax.batch import ClassSpec, LabelSpec, Source
from segjax.config import Config, nearest
from segjax.tasks import TASKS
from segjax.views import Recipe, Size, padded_sizes
from segjax.writing import write_text

ORIGIN = "origin.json"
"""What a run was trained on and from; training writes it into the workdir."""

_SINGLE = {
    "inference.mode": "whole",
    "inference.scales": [1.0],
    "inference.flip": False,
}
_CAMVID = {
    "data.name": "camvid",
    "classes.sha256": "fe84faf62d4b7242",
    "labels.sizes": "360x480",
    "input.sizes": "360x480",
    "train.name": "camvid",
    "train.examples": 367,
    "train.ids": "ba7d8d74645bf75c",
    "selection.rule": "best",
    "selection.split": "val",
    "selection.ids": "78ee14a3e60421b7",
    **_SINGLE,
}
_CAMVID_TEST = {
    "data.split": "test",
    "data.examples": 233,
    "data.ids": "8a28d6cbf44ce11f",
}
_CAMVID_VAL = {
    "data.split": "val",
    "data.examples": 101,
    "data.ids": "78ee14a3e60421b7",
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    # SegNet's (Badrinarayanan et al. 2017, TPAMI): 11 classes, trained on the 367
    # images, the checkpoint chosen on val, scored on the 233 of test.
    "camvid11_360x480_train367": {**_CAMVID, **_CAMVID_TEST},
    "camvid11_360x480_train367_scratch": {
        **_CAMVID,
        **_CAMVID_TEST,
        "pretrained": None,
    },
    # Scored on val, which therefore chooses no checkpoint.
    "camvid11_360x480_train367_val": {
        **{k: v for k, v in _CAMVID.items() if not k.startswith("selection.")},
        **_CAMVID_VAL,
        "selection.rule": "latest",
    },
}
"""Name -> the parts that it fixes."""


def digest(value: Any) -> str:
    """16 hex digits of the sha256 of plain JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_card(name: str, split: str, source: Source) -> dict[str, Any]:
    """A split: its dataset's name, its own, how many examples, a hash of their ids.

    The ids in any order: a list that is sorted otherwise is the same split.
    """
    ids = sorted(source.ids())
    return {"name": name, "split": split, "examples": len(ids), "ids": digest(ids)}


def pretrained_card(name: str | None) -> Any:
    """What ``model.pretrained`` names: None, a package, a file by content, or a run.

    A run by its config, its step and what it was trained on: it may still go on.
    """
    if name is None:
        return None
    path = Path(name)
    if path.is_file():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return {"file": path.name, "sha256": content}
    config = checkpoint.file_of_run(path, "config.json") if path.is_dir() else None
    if config is None:
        return {"name": name}
    origin = config.with_name(ORIGIN)
    settings = json.loads(config.read_text())
    return {
        "run": digest(settings),
        "step": _step(path, settings),
        "origin": json.loads(origin.read_text()) if origin.is_file() else None,
    }


def _step(path: Path, settings: Mapping[str, Any]) -> int | None:
    """The checkpoint that a warm start takes; None: none, as it will say itself."""
    metric = TASKS[settings["task"]].metric if "task" in settings else "miou"
    try:
        return int(checkpoint.find_step(path, "best", metric).name)
    except ValueError:
        return None


def save_origin(
    workdir: Path, config: Config, train: Source, selection: Source
) -> None:
    """Write what a run is trained on and from, unless it is there already.

    ``selection`` are the examples whose mIoU chooses the best checkpoint.
    """
    path = workdir / ORIGIN
    if path.is_file():
        return
    data = config.data
    origin = {
        "train": split_card(data.name, data.train_split, train),
        "selection": split_card(data.name, data.eval_split, selection),
        "pretrained": pretrained_card(config.model.pretrained),
    }
    write_text(path, json.dumps(origin, indent=2) + "\n")


def read_origin(workdir: Path) -> dict[str, Any]:
    """What :func:`save_origin` wrote; "unknown" in a workdir that has none.

    Weights that ``segjax import`` brought were trained elsewhere.
    """
    path = workdir / ORIGIN
    if not path.is_file():
        return dict.fromkeys(("train", "selection", "pretrained"), "unknown")
    return json.loads(path.read_text())


def _sizes(sizes: Sequence[Size]) -> str:
    """360x480, or 200x300 to 480x640: the least and the largest of each side."""
    heights, widths = zip(*sizes, strict=True)
    low, high = f"{min(heights)}x{min(widths)}", f"{max(heights)}x{max(widths)}"
    return low if low == high else f"{low} to {high}"


def _inference(
    recipe: Recipe | None, config: Config, sizes: Sequence[Size], fit: str
) -> dict[str, Any]:
    """What matters of how the network was applied: of a classifier, the crop."""
    if recipe is None:
        return {"crop": config.eval.crop}
    fields = {"mode", "scales", "flip", "bucket"}
    if recipe.mode == "slide":
        fields |= {"window", "overlap", "margin"}
    found = {key: getattr(recipe, key) for key in sorted(fields)}
    if recipe.mode == "whole" and fit == "pad":
        known = padded_sizes(sizes, recipe.bucket, config.eval.programs)
        found["padded_to"] = [f"{height}x{width}" for height, width in known]
    return found


def protocol(
    *,
    config: Config,
    split: str,
    source: Source,
    spec: LabelSpec | ClassSpec,
    preprocessing: Mapping[str, Any],
    sizes: Sequence[Size],
    origin: Mapping[str, Any],
    checkpoint: str,
    recipe: Recipe | None,
    environment: Mapping[str, Any],
    changed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The protocol of an evaluation: its parts, and their ``id``.

    Args:
      config: the run's.
      split: the name of the split that is scored, ``source``.
      source: its examples.
      spec: the run's classes.
      preprocessing: the run's, as a dict.
      sizes: (height, width) of each label; none where images have one class.
      origin: :func:`read_origin`.
      checkpoint: the rule that chose it: "best", "latest" or a step.
      recipe: how the network was applied; None for a classifier.
      environment: :func:`segjax.logs.environment`.
      changed: knobs of the network that are not as in training (another output stride
        or dtype), and what they are.
    """
    size: Size = tuple(preprocessing["image_size"])
    seen = [size] if preprocessing["fit"] == "resize" or not sizes else sizes
    described = spec.to_dict()
    described.pop("palette", None)  # a class's colour is no part of what it means
    rule: dict[str, Any] = {"rule": checkpoint}
    if checkpoint == "best":
        chosen = origin["selection"]
        rule |= chosen if isinstance(chosen, dict) else {"split": chosen}
    parts = {
        "task": config.task,
        "data": split_card(config.data.name, split, source),
        "classes": {"number": spec.num_classes, "sha256": digest(described)},
        "input": {"sizes": _sizes(seen), **preprocessing},
        "labels": {"sizes": _sizes(sizes), "sha256": digest(sorted(sizes))}
        if sizes
        else None,
        "train": origin["train"],
        "pretrained": origin["pretrained"],
        "selection": rule,
        "inference": _inference(recipe, config, sizes, preprocessing["fit"])
        | ({"changed": dict(changed)} if changed else {}),
        "seed": config.seed,
        "code": environment["git"],
        "versions": environment["versions"],
    }
    parts = json.loads(json.dumps(logs.plain(parts)))
    return {"id": digest(parts), **parts}


def flatten(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in parts.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_protocol(name: str, parts: Mapping[str, Any]) -> None:
    """Refuse a name that is not this protocol's.

    Raises:
      ValueError: no protocol of that name; or a part that differs, with both values.
    """
    if name not in PROTOCOLS:
        raise ValueError(
            f"--protocol {name!r} is unknown{nearest(name, PROTOCOLS)}; there are "
            f"{', '.join(PROTOCOLS)}"
        )
    ours = flatten(parts)
    for key, theirs in PROTOCOLS[name].items():
        found = ours.get(key, parts.get(key.partition(".")[0], "missing"))
        if found != theirs:
            raise ValueError(
                f"--protocol {name}: {key} is {found!r} here, but {theirs!r} in the "
                "protocol; the score would not be one of that name"
            )
