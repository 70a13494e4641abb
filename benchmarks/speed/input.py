"""Host images/s beside PyTorch's DataLoader: docs/results/speed_input.json.

    python -m benchmarks.speed.input [--only camvid] [--rounds 7]

Training batches of configs/camvid_resnet_unet.py: CamVid's PNGs at 180x240, and the
same scenes as 512x512 JPEGs, which the benchmark writes. There: OpenCV reads,
albumentations does the config's augmentation (scale, crop, flip), two worker processes.
Here: two threads decode, and augmentation is part of the jitted step; so there are rows
without it (the host's work) and with it, jitted on the same processors. ``decoding``
reads every file in every epoch, with the extra [fast] unless it says without.
``cached`` is what the later epochs of a run find in memory by default (data.cache_gb).
All run in huge memory pages, as segjax's launcher starts training.
A ratio above 1 means that segjax is the faster.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks import record
from benchmarks.speed.contest import Busy, spread
from segjax import config as configs
from segjax import setup
from segjax.augment import augment_batch
from segjax.batch import Batch, Example, LabelSpec, Source
from segjax.config import Config
from segjax.data import decoders, files, pipeline
from segjax.data.pairs import Pair
from segjax.pages import use_huge_pages
from segjax.preprocessing import pair, preprocessing

RECORD = record.ROOT / "docs" / "results" / "speed_input.json"
COMMAND = "python -m benchmarks.speed.input"
CONFIG = record.ROOT / "configs" / "camvid_resnet_unet.py"
WORKERS = 2
DRAINED = 4
"""Batches taken before the clock starts, so that none lies ready from before."""


@dataclass(frozen=True)
class Task:
    """A config, its training split, and the files behind it."""

    name: str
    config: Config
    source: Source
    pairs: Sequence[Pair]
    batches: int

    @classmethod
    def of(cls, name: str, overrides: Sequence[str], batches: int | None) -> "Task":
        """CONFIG with overrides; ``batches`` of a turn, None: an epoch's full ones."""
        config = configs.load(str(CONFIG), list(overrides))
        source: Any = setup.open_split(config, config.data.train_split)
        whole = len(source) // config.data.batch_size
        return cls(name, config, source, source._pairs, min(batches or whole, whole))


def write_jpegs(source: Source, folder: Path) -> None:
    """The examples as 512x512 JPEGs (quality 90) with masks in PNG."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    classes = {"classes": list(source.spec.names), "ignore": [255]}
    (folder / "classes.json").write_text(json.dumps(classes))
    for index, key in enumerate(source.ids()):
        example = source[index]
        image = Image.fromarray(example["image"]).resize((512, 512), 3)
        image.save(folder / "images" / f"{key}.jpg", quality=90)
        mask = Image.fromarray(example["label"]).resize((512, 512), 0)
        mask.save(folder / "masks" / f"{key}.png")


def jpeg_overrides(folder: Path) -> list[str]:
    """What makes CONFIG train on them."""
    return [
        "--config.data.name=folder",
        f"--config.data.root={folder}",
        "--config.data.folder.val_fraction=0.0",
        "--config.data.image_size=512",
    ]


class Albumented:
    """The map-style dataset of a PyTorch user: OpenCV and albumentations."""

    def __init__(self, task: Task):
        # Importing it would ask the network for a newer version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations  # pyright: ignore[reportMissingImports]
        import cv2
        from albumentations.pytorch import (  # pyright: ignore[reportMissingImports]
            ToTensorV2,
        )

        (h, w), augment = pair(task.config.data.image_size), task.config.augment
        pre = preprocessing(task.config, 3)
        low, high = augment.scale
        steps: list[Any] = [
            albumentations.Resize(h, w, interpolation=cv2.INTER_AREA),
            albumentations.RandomScale((low - 1, high - 1), p=1.0),
            albumentations.PadIfNeeded(h, w, fill=0, fill_mask=255, position="random"),
            albumentations.RandomCrop(h, w),
            albumentations.HorizontalFlip(p=augment.flip),
            albumentations.Normalize(pre.mean, pre.std),
            ToTensorV2(),
        ]
        self.transform = albumentations.Compose(steps)
        self.pairs = task.pairs
        self.lookup = cast(LabelSpec, task.source.spec).lookup().astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Any, Any]:
        """uint8[h, w, 3] and uint8[h, w], as stored."""
        import cv2

        image = cv2.imread(str(self.pairs[index].image))
        mask = cv2.imread(str(self.pairs[index].mask), cv2.IMREAD_UNCHANGED)
        assert image is not None and mask is not None
        label = self.lookup[np.asarray(mask, np.uint8)]
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), label

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, mask = self.read(index)
        found = self.transform(image=image, mask=mask)
        return found["image"], found["mask"]


def one_thread(worker: int) -> None:
    """As PyTorch gives one to each worker, so OpenCV."""
    import cv2

    cv2.setNumThreads(0)


def agree(task: Task, count: int = 8) -> float:
    """The largest mean difference of images as they are read, of 255 levels.

    Raises:
      ValueError: it is above 1, or labels differ: the contestants read other data.
    """
    theirs, worst = Albumented(task), 0.0
    for index in range(min(count, len(task.source))):
        image, mask = theirs.read(index)
        example = task.source[index]
        difference = np.abs(example["image"].astype(int) - image).mean()
        worst = max(worst, float(difference))
        if worst > 1 or not np.array_equal(example["label"], mask):
            raise ValueError(
                f"{example['id']}: images differ by {worst:.2f} levels, or labels "
                "do: nothing is timed"
            )
    return worst


def augmentation(task: Task) -> Callable[[int, Batch], Any]:
    """The jitted augmentation of the config, waited for."""
    import jax

    settings = setup.make_augment(task.config, preprocessing(task.config, 3))
    run = jax.jit(partial(augment_batch, settings, platform=jax.devices()[0].platform))

    def augment(step: int, batch: Batch) -> None:
        key = jax.random.fold_in(jax.random.key(0), step)
        jax.block_until_ready(run(key, batch["image"], batch["label"], batch["size"]))

    return augment


def ignore(step: int, batch: Batch) -> None:
    """The consumer that only takes."""


def take(batches: Iterator[Any], count: int, use: Callable[[int, Any], None]) -> float:
    """Seconds until so many batches have been taken and used."""
    begin = time.perf_counter()
    for step in range(count):
        use(step, next(batches))
    return time.perf_counter() - begin


def decoding(task: Task, use: Callable[[int, Batch], None]) -> Callable[[], float]:
    """A turn that starts a pipeline without a cache."""
    config = task.config.copy_and_resolve_references()
    config.data.threads, config.data.workers, config.data.cache_gb = WORKERS, 0, 0.0

    def turn() -> float:
        batches = setup.train_batches(config, task.source, 0)
        seconds = take(batches, task.batches, use)
        batches.close()  # type: ignore[attr-defined]
        return seconds

    return turn


def by_pillow(turn: Callable[[], float]) -> Callable[[], float]:
    """The turn as without the extra [fast]."""

    def without() -> float:
        with mock.patch.object(decoders, "_decoder", lambda format: None):
            return turn()

    return without


def cached(task: Task, use: Callable[[int, Batch], None]) -> Callable[[], float]:
    """A turn that goes on in a pipeline which has seen the whole split."""
    config = task.config.copy_and_resolve_references()
    config.data.threads, config.data.workers = WORKERS, 0
    batches = setup.train_batches(config, task.source, 0)
    take(batches, -(-len(task.source) // config.data.batch_size), ignore)

    def turn() -> float:
        take(batches, DRAINED, use)
        return take(batches, task.batches, use)

    return turn


def torch_loader(task: Task) -> Callable[[], float]:
    """A turn over a DataLoader whose workers have been started before."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Albumented(task),  # type: ignore[arg-type]
        batch_size=task.config.data.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
        worker_init_fn=one_thread,
    )

    def turn() -> float:
        begin = time.perf_counter()
        batches = iter(loader)
        for _ in range(task.batches):
            next(batches)
        seconds = time.perf_counter() - begin
        for _ in batches:  # so that the next turn finds idle workers
            pass
        return seconds

    return turn


def profile(task: Task, count: int = 16, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of one core per example, by operation; the least of the repeats."""
    theirs, spec = Albumented(task), cast(LabelSpec, task.source.spec)
    size = pair(task.config.data.image_size)
    pairs = task.pairs[:count]
    examples = [task.source[index] for index in range(len(pairs))]
    stored = [theirs.read(index) for index in range(len(pairs))]
    one_thread(0)

    def fit(example: Example) -> None:
        pipeline.resize_image(example["image"], size)
        pipeline.resize_label(example["label"], size)

    def ids(one: Pair) -> None:
        spec.apply(files.read_mask(one.mask), one.id)

    operations: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "segjax: image file": (lambda one: files.read_image(one.image, 3), pairs),
        "segjax: mask file, ids": (ids, pairs),
        "segjax: fit": (fit, examples),
        "there: both files, ids": (theirs.read, range(len(pairs))),
        "there: albumentations": (
            lambda one: theirs.transform(image=one[0], mask=one[1]),
            stored,
        ),
    }
    found = {}
    for name, (run, arguments) in operations.items():
        times = []
        for _ in range(repeats):
            # Of the thread alone: what others do to the machine does not count.
            begin = time.thread_time()
            for argument in arguments:
                run(argument)
            times.append(time.thread_time() - begin)
        found[name] = round(1000 * min(times) / len(pairs), 3)
    return found


def processes() -> list[Any]:
    """The benchmark and the workers it has started, as Busy wants them."""
    ids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return [SimpleNamespace(process=SimpleNamespace(pid=number)) for number in ids]


def contest(task: Task, rounds: int) -> dict[str, Any]:
    """A row: images/s by round of every contestant."""
    augment = augmentation(task)
    turns: dict[str, Callable[[], float]] = {
        "torch": torch_loader(task),
        "decoding": decoding(task, ignore),
        "decoding, without [fast]": by_pillow(decoding(task, ignore)),
        "decoding + augmentation": decoding(task, augment),
        "cached": cached(task, ignore),
        "cached + augmentation": cached(task, augment),
    }
    difference = agree(task)
    images = task.batches * task.config.data.batch_size
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    busy = None
    for number in range(rounds + 1):
        if number == 1:
            busy = Busy(processes())
        for name, turn in turns.items():
            seconds = turn()
            if number:  # the first warms up: compilation, workers, the disk's cache
                speeds[name].append(images / seconds)
    # A run of so many epochs decodes in the first alone.
    epochs = task.config.epochs
    pairs = zip(speeds["decoding"], speeds["cached"], strict=True)
    speeds["run"] = [epochs / (1 / a + (epochs - 1) / b) for a, b in pairs]
    return {
        "milliseconds": profile(task),
        "images": images,
        "size": list(pair(task.config.data.image_size)),
        "epochs": epochs,
        "mean_difference": difference,
        "others_busy": round(busy.others(), 3) if busy else None,
        "images_per_s": speeds,
    }


def render(content: Mapping[str, Any]) -> str:
    """The record's markdown table and where it comes from."""
    rows = []
    for key, row in content["rows"].items():
        speeds = row["images_per_s"]
        theirs = speeds["torch"]
        for name, ours in speeds.items():
            if name == "torch":
                continue
            if name == "run":
                name = f"run of {row['epochs']:g} epochs (from the two)"
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            cells = [f"{statistics.median(values):.0f}" for values in (ours, theirs)]
            busy = f"{row['others_busy']:.0%}"
            rows.append([key, name, *cells, spread(ratios), len(ours), busy])
    header = (
        *("data", "segjax", "segjax images/s", "DataLoader images/s"),
        *("segjax : DataLoader", "rounds", "others' CPU"),
    )
    times = [
        [key, operation, f"{value:.2f}"]
        for key, row in content["rows"].items()
        for operation, value in row["milliseconds"].items()
    ]
    costs = record.table(("data", "operation", "ms of one core per example"), times)
    return "\n\n".join([record.table(header, rows), costs, record.where(content)])


def case(name: str, rounds: int, batches: int | None) -> dict[str, Any]:
    """Measure a case; its data lies where the config says, or in a new folder."""
    camvid = Task.of(name, [], batches)
    if name == "camvid":
        return contest(camvid, rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(camvid.source, Path(folder))
        task = Task.of(name, jpeg_overrides(Path(folder)), batches)
        return contest(task, rounds)


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, help="of a turn; default: an epoch's")
    parser.add_argument("--output", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    # As segjax's launcher starts training; the DataLoader's workers inherit it.
    use_huge_pages()
    names = ("camvid", "jpeg512")
    cases = {name: partial(case, name, args.rounds, args.batches) for name in names}
    return record.carry_out(args.output, cases, COMMAND, args, render)


if __name__ == "__main__":
    sys.exit(main())
