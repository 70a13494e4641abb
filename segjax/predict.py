"""``segjax predict``: labels, pictures and boxes of any images, at their own size."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from segjax import (
    cache,
    detection,
    drawing,
    inference,
    localize,
    logs,
    regions,
    setup,
    views,
)
from segjax.batch import IGNORE, ClassSpec, LabelSpec
from segjax.data import files, inputs, video
from segjax.data.inputs import Entry
from segjax.outputs import raise_failed, save, write_json
from segjax.stream import Results, stream
from segjax.views import Size

PICTURES = ("label", "overlay", "contours", "boxes")
"""What can be written for an image: ``<name>.png``, ``<name>_overlay.png``, ..."""
HEATS = ("cam",)
"""And with a classifier."""
ENDINGS = ("", *(f"_{kind}" for kind in (*PICTURES[1:], *HEATS)))


@dataclass(frozen=True)
class Options:
    """``write``: which pictures (None: all); ``every``: of a video's frames, each n-th.

    ``min_area`` px and ``connectivity`` of regions: see :func:`segjax.regions.find`.
    """

    write: tuple[str, ...] | None = None
    min_area: int = regions.MIN_AREA
    connectivity: int = regions.CONNECTIVITY
    every: int = 1

    def __post_init__(self):
        for name, least in (("min_area", 1), ("every", 1)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--{flag} is {getattr(self, name)}; write {least} or more"
                )

    def check(self, classifies: bool, videos: bool) -> None:
        """Refuse what would change nothing.

        Raises:
          ValueError: regions of a classifier, or frames without a video.
        """
        usual = Options()
        of_maps = ("min_area", "connectivity") if classifies else ()
        of_videos = () if videos else ("every",)
        for names, what in (
            (of_maps, "a run of segmentation"),
            (of_videos, "a video's frames"),
        ):
            for name in names:
                if getattr(self, name) != getattr(usual, name):
                    flag = name.replace("_", "-")
                    raise ValueError(f"--{flag} is for {what}; leave it out")

    def pictures(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """Which are written, of those a run's task has.

        Raises:
          ValueError: another one was asked for.
        """
        if wrong := [kind for kind in self.write or () if kind not in known]:
            raise ValueError(
                f"--write {wrong[0]}: this run's pictures are {', '.join(known)}"
            )
        return known if self.write is None else self.write


@dataclass(frozen=True)
class Writer:
    """Regions and pictures of a labelled image."""

    output: Path
    spec: LabelSpec
    options: Options
    pictures: tuple[str, ...] = PICTURES

    @property
    def about(self) -> dict[str, Any]:
        """What regions are, for ``boxes.json``."""
        options = self.options
        return {"min_area": options.min_area, "connectivity": options.connectivity}

    def regions(self, label: np.ndarray, confidence: np.ndarray | None = None):
        """Of a label map, by the options."""
        return regions.find(
            label,
            self.spec.num_classes,
            confidence,
            min_area=self.options.min_area,
            connectivity=self.options.connectivity,
        )

    def __call__(
        self,
        entry: Entry,
        image: np.ndarray,
        truth: np.ndarray | None,
        label: np.ndarray,
        confidence: np.ndarray,
    ) -> tuple[dict[str, Any], list | None]:
        """Write the pictures; what ``boxes.json`` says, and overlaps with the truth."""
        found = self.regions(label, confidence)
        size = (label.shape[0], label.shape[1])
        told = regions.describe(found, self.spec, size)
        shown = inference.display_image(image)
        draw = {
            "overlay": lambda: inference.overlay(shown, label, self.spec),
            "contours": lambda: drawing.contours(shown, label, self.spec),
            "boxes": lambda: drawing.boxes(shown, told, self.spec.palette),
        }
        about = entry.about | {"size": list(size)}
        for kind in self.pictures:
            if kind == "label":
                about["label"] = f"{entry.name}.png"
                write = partial(inference.palette_png, label=label, spec=self.spec)
                save(self.output, f"{entry.name}.png", write)
            else:
                write = partial(drawing.write_fast, draw[kind]())
                save(self.output, f"{entry.name}_{kind}.png", write)
        return about | {"boxes": told}, self._overlaps(label, confidence, truth)

    def _overlaps(self, label, confidence, truth) -> list | None:
        """(class, scores, box IoU, mask IoU) of every class; None without a truth.

        What the truth ignores is ignored in the prediction, too.
        """
        if truth is None:
            return None
        label = np.where(truth == IGNORE, IGNORE, label).astype(np.uint8)
        sides = self.regions(label, confidence), self.regions(truth)
        found = []
        for class_id in range(self.spec.num_classes):
            own, true = ([r for r in s if r.class_id == class_id] for s in sides)
            if own or true:
                scores = np.array([region.score for region in own])
                iou = detection.box_iou(regions.boxes_of(own), regions.boxes_of(true))
                found.append((class_id, scores, iou, regions.mask_iou(own, true)))
        return found


class Detections(Results):
    """With the average precision of boxes and masks, where there was a truth."""

    def __init__(self, spec: LabelSpec):
        super().__init__()
        self._names, self._truths = spec.names, False
        self._found = {
            kind: detection.AveragePrecision(spec.num_classes)
            for kind in ("boxes", "masks")
        }

    def note(self, about: dict[str, Any], more: list | None) -> None:
        """``more``: what :class:`Writer` says of the overlaps."""
        self._truths |= more is not None
        for class_id, scores, of_boxes, of_masks in more or ():
            self._found["boxes"].add(class_id, scores, of_boxes)
            self._found["masks"].add(class_id, scores, of_masks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = super().to_dict()
        if self._truths:
            told["average_precision"] = {
                kind: found.summarize(self._names)
                for kind, found in self._found.items()
            }
        return told


def _find(source: Sequence[str], output: Path) -> list[inputs.Item]:
    """The files to label; says which were passed over."""
    items, passed = inputs.find(source, output, ENDINGS, sys.stdin)
    for text in inputs.advice(passed):
        print(text)
    videos = [item.path for item in items if item.is_video]
    if videos:
        video.library(videos[0])  # before a network is loaded
    return items


def _open(
    parts: setup.Parts, split: str | None, items: Sequence[inputs.Item], every: int
) -> tuple[Iterable[Entry], Sequence[Callable[[], tuple[int, int]]], int]:
    """Entries, how to ask for images' sizes, and the number of images as far as known.

    A video's size is not asked for: all its frames have one.
    """
    if split:
        source = setup.open_split(parts.config, split, parts.pre.channels)
        if source.spec != parts.spec:
            theirs, ours = (", ".join(s.spec.names[:20]) for s in (source, parts))
            raise ValueError(
                f"the classes of the data ({theirs}) are not those of the run "
                f"({ours}); name the photographs by --input, which needs no labels"
            )
        sizes = [partial(source.size, i) for i in range(len(source))]
        return inputs.split_entries(source, ENDINGS), sizes, len(source)
    sizes = [partial(files.image_size, i.path) for i in items if not i.is_video]
    total = sum(video.count_frames(item.path, every) for item in items)
    return inputs.file_entries(items, parts.pre.channels, every), sizes, total


def _padded(
    parts: setup.Parts,
    sizes: Iterable[Callable[[], tuple[int, int]]],
    threads: int,
    console: Any,
) -> tuple[Size, ...]:
    """:func:`views.padded_to` of images of ``sizes``; says what is not as usual."""

    def ask(size: Callable) -> tuple[int, int] | None:
        try:
            return size()
        except (ValueError, OSError):  # will be named when it is read
            return None

    with ThreadPoolExecutor(threads) as pool:
        known = [size for size in pool.map(ask, sizes) if size is not None]
    for line in views.without_effect(parts.config) + views.advice(parts.config, known):
        console.print(line, highlight=False, markup=False)
    return views.padded_to(parts.config, known)


def predict(
    workdir: Path,
    source: Sequence[str],
    output: Path,
    overrides: Sequence[str] = (),
    *,
    checkpoint: str = "best",
    split: str | None = None,
    options: Options = Options(),
) -> dict[str, Any]:
    """Label files or a split; writes PNGs and ``boxes.json`` and returns the latter.

    With a classifier it writes ``predictions.json`` and ``<name>_cam.png``: an image's
    class, and where it is (:mod:`segjax.localize`).

    Args:
      workdir: of the run.
      source: files, folders, patterns, or "-" (a list on standard input).
      output: the folder to write to, and nowhere else.
      overrides: ``--config.KEY=VALUE``.
      checkpoint: "best", "latest" or a step.
      split: of the run's dataset, instead of ``source``: its average precision is told.
      options: what is written and how.

    Raises:
      ValueError: nothing to read, or some files could not be read (the others are
        done first; the message names these).
    """
    from rich.console import Console
    from rich.progress import Progress

    items = [] if split else _find(source, output)
    cache.keep_compiled()
    parts = setup.load_parts(workdir, list(overrides), devices=jax.local_devices()[:1])
    variables, step = setup.restore_variables(parts, workdir, checkpoint)
    console = Console(soft_wrap=True)
    classifies = parts.config.task == "classification"
    told = "predictions.json" if classifies else "boxes.json"
    pictures = options.pictures(HEATS if classifies else PICTURES)
    options.check(classifies, any(item.is_video for item in items))
    threads = min(8, os.cpu_count() or 1)
    about = {
        "classes": list(parts.spec.names),
        "step": step,
        "split": split,
        "environment": logs.environment(),
    }
    entries, sizes, total = _open(parts, split, items, options.every)
    output.mkdir(parents=True, exist_ok=True)
    if classifies:
        network = localize.Localizer(parts, variables)
        spec = cast(ClassSpec, parts.spec)
        writer = localize.HeatWriter(partial(save, output), spec, pictures)
        results = localize.Classes(console)
    else:
        known = _padded(parts, sizes, threads, console)
        seen = views.views_of(parts)
        network = partial(seen.label, variables, known=known)
        spec = cast(LabelSpec, parts.spec)
        writer = Writer(output, spec, options, pictures)
        results = Detections(spec)
        about |= writer.about
    start = time.perf_counter()
    try:
        with Progress(console=console, transient=True) as bar:
            advance = partial(bar.advance, bar.add_task("predicting", total=total))
            stream(entries, network, writer, results, advance, threads)
    finally:
        # What was done before an interruption is told, too.
        about |= results.to_dict()
        write_json(output, told, about)
    if "average_precision" in about:
        logs.detection_table(about["average_precision"], console)
    console.print(f"step {step}: {output / told}", highlight=False, markup=False)
    console.print(results.speed(time.perf_counter() - start), highlight=False)
    raise_failed(results.failed, len(results.images), output / told)
    return about
