"""``segjax report``: what a run learned and where it fails, as one HTML file.

The file opens offline, in any browser of the last years: pictures, data, style and
script are in it, and it asks for nothing. Everything is computed here, from the
checkpoint's predictions of a whole split; nothing is taken from an earlier evaluation.
"""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from segjax import cache, cam, localize, logs, setup, views
from segjax.batch import Source
from segjax.data import pipeline
from segjax.report import album, classification, frame, guesses, page
from segjax.report.account import Account, Truth, pack
from segjax.report.sections import Subject, read_lines
from segjax.views import Size
from segjax.writing import write_text

__all__ = ["report"]


@dataclass
class Network:
    """A run's network, ready to predict, and what its predictions add up to.

    ``views`` and ``account`` are those of a segmentation; a classifier's account comes
    from :func:`segjax.report.guesses.look`.
    """

    workdir: Path
    parts: setup.Parts
    step: int
    variables: Any
    views: views.Views | None
    account: Any
    known: tuple[Size, ...] = ()  # padded sizes (views.padded_to)

    @classmethod
    def load(
        cls, workdir: Path, overrides: Sequence[str], checkpoint: str
    ) -> "Network":
        """The network of a run's checkpoint, on one device."""
        device = jax.local_devices()[:1]
        parts = setup.load_parts(workdir, list(overrides), device)
        variables, step = setup.restore_variables(parts, workdir, checkpoint)
        if parts.config.task == "classification":
            return cls(workdir, parts, step, variables, None, None)
        account = Account(parts.spec.num_classes)
        return cls(workdir, parts, step, variables, views.views_of(parts), account)

    def add(self, image: np.ndarray, truth: Truth) -> None:
        """Predict an image [h, w, C] as config.eval says, and count."""
        seen = cast(views.Views, self.views)
        self.account.add(truth, *seen.label(self.variables, image, self.known))

    def subject(self, name: str) -> Subject:
        """What the page says of it."""
        path = self.workdir / "result.json"
        result = json.loads(path.read_text()) if path.is_file() else None
        return Subject(
            name,
            self.parts.config,
            self.parts.spec,
            self.step,
            sum(x.size for x in jax.tree.leaves(self.variables["params"])),
            self.account,
            self.account.summarize(self.parts.spec.names),
            read_lines(self.workdir / "metrics.jsonl"),
            result,
        )


def measure(
    networks: Sequence[Network],
    source: Source,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[bytes, bytes]]:
    """Have each network predict each example once; returns the packed truths."""

    def load(index: int):
        example = source[index]
        image, label = pipeline.checked(example, source.channels)
        return pipeline.finite(image, example["id"]), Truth.of(label)

    truths = []
    examples = pipeline.in_background(
        range(len(source)), load, threads=2, workers=0, prefetch=2
    )
    for done, (image, truth) in enumerate(examples, start=1):
        for network in networks:
            network.add(image, truth)
        truths.append(truth.packed())
        progress(done)
    return truths


def _heat(network: Network, source: Source) -> classification.Heat:
    """Where a classifier sees its guess, and the true class if that is another."""
    if not cam.has_maps(network.parts.model):
        return lambda index: []
    localizer = localize.Localizer(network.parts, network.variables)
    names = network.parts.spec.names

    def heat(index: int) -> list[tuple[str, str]]:
        example = source[index]
        image, label = pipeline.checked(example, source.channels)
        _, classes, maps = localizer(image)
        found = dict(zip(classes.tolist(), maps, strict=True))
        wanted = dict.fromkeys((int(classes[0]), int(label)))
        return [
            (names[k], album.text(pack((255 * found[k]).astype(np.uint8))))
            for k in wanted
            if k in found
        ]

    return heat


def _page(
    networks: Sequence[Network], source: Source, about: dict, bar: Any
) -> tuple[str, list[Subject]]:
    """Predict the split with each network; the page's text, and what it is about.

    ``about``: further fields of :class:`segjax.report.frame.Content`.
    """
    classifies = networks[0].parts.config.task == "classification"
    task = bar.add_task(
        f"predicting {about['split']}",
        total=len(source) * (len(networks) if classifies else 1),
    )

    def show(done: int, before: int = 0) -> None:
        bar.update(task, completed=done + before)

    truths = []
    if classifies:
        for number, network in enumerate(networks):
            progress = partial(show, before=number * len(source))
            network.account = guesses.look(
                network.parts, network.variables, source, progress
            )
    else:
        truths = measure(networks, source, show)
    subjects = [network.subject(str(network.workdir)) for network in networks]
    content = frame.Content(
        ours=subjects[0],
        other=subjects[1] if len(subjects) > 1 else None,
        ids=source.ids(),
        truths=truths,
        source=source,
        **about,
    )
    bar.update(task, description="drawing")
    text = (
        classification.render(content, _heat(networks[0], source))
        if classifies
        else page.render(content)
    )
    return text, subjects


def _check(workdir: Path, parts: setup.Parts, source: Source, task: str) -> None:
    """Refuse a run that cannot be measured on this data."""
    if parts.config.task != task:
        raise ValueError(
            f"{workdir} is a run of {parts.config.task}, the first one of {task}; "
            "compare runs of one task"
        )
    if parts.spec != source.spec:
        raise ValueError(
            f"the classes of the data ({', '.join(source.spec.names)}) are not those "
            f"of {workdir} ({', '.join(parts.spec.names)})"
        )
    if parts.pre.channels != source.channels:
        raise ValueError(
            f"the data's images have {source.channels} channels and those of {workdir} "
            f"{parts.pre.channels}; report on the data that it was trained for"
        )
    if not len(source):
        raise ValueError("the split has no example; name another --split")


def report(
    workdir: Path,
    overrides: Sequence[str] = (),
    *,
    against: Path | None = None,
    split: str | None = None,
    output: Path | None = None,
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Write a run's report, ``report_<split>.html`` in its workdir by default.

    ``against`` is a second run's workdir: both predict the same examples, those of the
    first run's split, and the report shows the paired difference.

    Returns:
      What the page is about: its path and the summaries of both runs.

    Raises:
      ValueError: a workdir, split or checkpoint is not there, or the second run's
        classes or channels are not those of the data.
    """
    from rich.console import Console
    from rich.progress import Progress

    if output is not None and output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file in it")
    cache.keep_compiled()
    networks = [Network.load(workdir, overrides, checkpoint)]
    parts = networks[0].parts
    split = str(split or parts.config.data.eval_split)
    source = setup.open_split(parts.config, split, parts.pre.channels)
    if against is not None:
        # Both seen alike; the data is the first run's.
        alike = [text for text in overrides if text.startswith("--config.eval.")]
        networks.append(Network.load(against, alike, checkpoint))
    for network in networks:
        _check(network.workdir, network.parts, source, parts.config.task)
    about = {
        "split": split,
        "command": shlex.join(["segjax", *sys.argv[1:]]),
        "environment": logs.environment(),
    }
    console = Console(soft_wrap=True)
    if parts.config.task == "segmentation":
        sizes = [source.size(i) for i in range(len(source))]
        lines = views.without_effect(parts.config) + views.advice(parts.config, sizes)
        for line in lines:
            console.print(line, highlight=False, markup=False)
        for network in networks:
            network.known = views.padded_to(network.parts.config, sizes)
    with Progress(console=console, transient=True) as bar:
        text, subjects = _page(networks, source, about, bar)
    path = output or workdir / f"report_{split}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    key, name = ("top1", "top-1") if "top1" in subjects[0].summary else ("miou", "mIoU")
    for subject in subjects:
        score = 100 * (subject.summary[key] or 0.0)
        console.print(
            f"{subject.name}, step {subject.step}: {name} {score:.2f} %",
            highlight=False,
            markup=False,
        )
    size = path.stat().st_size / 1e6
    text = f"report: {path} ({size:.1f} MB)"
    console.print(text, highlight=False, markup=False)
    return {"path": path, "summaries": [s.summary for s in subjects]}
