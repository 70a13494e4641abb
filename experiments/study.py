"""A study: one file that says what is asked, what varies and how it is judged.

Written before the first run, ``experiments/NAME.py`` has

- a docstring whose first line is the question;
- ``HYPOTHESIS``: what is expected, and why;
- ``PRIMARY``: the metric that decides (:func:`experiments.scores.metric`);
- ``SEEDS``: at least three, shared by all variants;
- ``get_config()``: the base that all share. It is a config file like any other, and
  ``segjax train --config experiments/NAME.py`` takes it;
- ``variants()``: name -> {dotted config key: value}, the first being the baseline;
- and, unless every other variant is compared with the baseline, ``COMPARISONS``: pairs
  (variant, compared with).
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import scores
from segjax import config as configs

FOLDER = Path(__file__).parent
FEW = 3  # seeds that a study has at least


@dataclass(frozen=True)
class Study:
    """What a study's file says."""

    path: Path
    question: str
    hypothesis: str
    primary: str
    seeds: tuple[int, ...]
    variants: Mapping[str, Mapping[str, Any]]
    comparisons: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def overrides(self, variant: str, seed: int) -> list[str]:
        """The flags that make the base config this run's."""
        values = {**self.variants[variant], "seed": seed}
        return [f"--config.{key}={_text(value)}" for key, value in values.items()]

    def config(self, variant: str, seed: int) -> configs.Config:
        """The run's config, checked."""
        return configs.load(str(self.path), self.overrides(variant, seed))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(variant, seed), seed by seed: an interrupted study has pairs."""
        return [(v, seed) for seed in self.seeds for v in self.variants]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def settings(config: configs.Config) -> dict[str, Any]:
    """What a config changes of the defaults: dotted key -> value.

    A knob that a later version adds does not make it another config.
    """
    known = configs.flatten(configs.default())
    flat = configs.flatten(config)
    missing = object()
    return {k: v for k, v in flat.items() if known.get(k, missing) != v}


def paths() -> list[Path]:
    """The study files, by name: those that define variants()."""
    return [
        path
        for path in sorted(FOLDER.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "variants"
            for node in ast.parse(path.read_text()).body
        )
    ]


def load(path: str | Path) -> Study:
    """Read a study's file and check it.

    Raises:
      ValueError: something is missing or unknown, or a variant's config is refused.
    """
    import runpy

    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"{path}: there is no such study")
    try:
        found = runpy.run_path(str(path))
        made = found["variants"]() if "variants" in found else {}
    except Exception as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    needed = ("HYPOTHESIS", "PRIMARY", "SEEDS", "get_config", "variants")
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} is missing; write it down")
    try:
        variants = {name: dict(given) for name, given in made.items()}
        baseline = next(iter(variants), "")
        pairs = found.get("COMPARISONS") or [(v, baseline) for v in variants][1:]
        study = Study(
            path=path,
            question=(found.get("__doc__") or "").strip().split("\n")[0],
            hypothesis=" ".join(found["HYPOTHESIS"].split()),
            primary=str(found["PRIMARY"]),
            seeds=tuple(found["SEEDS"]),
            variants=variants,
            comparisons=tuple((a, b) for a, b in pairs),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: {error}; HYPOTHESIS and PRIMARY are texts, SEEDS a tuple, "
            "variants() a dict of dicts, COMPARISONS pairs of its names"
        ) from error
    _check(study)
    return study


def _check(study: Study) -> None:
    path = study.path
    if not re.fullmatch(r"\w+", study.name):
        raise ValueError(f"{path}: name it with letters, digits and _ alone")
    if not study.question.endswith("?"):
        raise ValueError(f"{path}: its docstring begins with no question (... ?)")
    if len(set(study.seeds)) < len(study.seeds):
        raise ValueError(f"{path}: SEEDS = {study.seeds} has one twice")
    if len(study.seeds) < FEW:
        raise ValueError(
            f"{path}: SEEDS = {study.seeds} are fewer than {FEW}; seeds move results "
            "by points"
        )
    if len(study.variants) < 2:
        raise ValueError(f"{path}: variants() has to name two or more")
    for name, given in study.variants.items():
        if "seed" in given:
            raise ValueError(f"{path}: {name} sets seed, which SEEDS does")
        if not re.fullmatch(r"\w[\w.+]*", name):
            raise ValueError(
                f"{path}: the variant {name!r} names files; use letters, digits, _ . +"
            )
    for name in {name for pair in study.comparisons for name in pair}:
        if name not in study.variants:
            known = ", ".join(study.variants)
            raise ValueError(f"{path}: COMPARISONS has {name!r}, variants() {known}")
    name = "PRIMARY"
    try:
        scores.metric(study.primary)
        for name in study.variants:
            task = study.config(name, study.seeds[0]).task
            if task != "segmentation":
                raise ValueError(f"task={task!r} has no confusion matrix per image")
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from error
