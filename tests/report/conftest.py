"""Two runs of small networks that were never trained, and the reports of both."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from segjax import checkpoint, setup
from segjax import config as configs
from segjax.preprocessing import preprocessing
from segjax.report import report

SIZE, EXAMPLES = (40, 56), 9


def config_of(seed: int = 0):
    config = configs.default()
    config.steps, config.seed = 4, seed
    config.model.encoder = config.model.decoder = "segnet_basic"
    config.data.image_size = SIZE
    config.data.shapes.val_examples = EXAMPLES
    configs.validate(config)
    return config


def lines_of(names: tuple[str, ...]) -> list[dict]:
    """A metrics.jsonl of four steps and two evaluations."""
    lines: list[dict] = []
    for step in range(1, 5):
        loss = 2.0 / step
        lines.append(
            {"step": step, "split": "train", "loss": loss, "miou": 0.1 * step}
            | {"lr": 0.01, "gradient_norm": 1.5, "images_per_s": 9.0}
        )
        if step % 2 == 0:
            of_class: dict[str, float | None] = {name: 0.1 * step for name in names}
            of_class[names[-1]] = None
            lines.append(
                {"step": step, "split": "val", "loss": loss, "miou": 0.1 * step}
                | {"iou_per_class": of_class}
            )
    return lines


def weights_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """He's normal kernels; scales, variances and biases near 1."""
    if len(shape) == 4:
        deviation = (2 / np.prod(shape[:3])) ** 0.5
        return rng.normal(0, deviation, shape).astype(np.float32)
    return rng.uniform(0.9, 1.1, shape).astype(np.float32)


def make_run(workdir: Path, seed: int) -> Path:
    """A workdir as training leaves it, with the weights of a fresh network."""
    config = config_of(seed)
    source = setup.open_split(config, "val")
    pre = preprocessing(config, source.channels)
    parts = setup.make_parts(config, source.spec, pre, jax.local_devices()[:1])
    image = jax.ShapeDtypeStruct((1, *SIZE, 3), "float32")
    shapes = jax.eval_shape(parts.model.init, jax.random.key(0), image)
    rng = np.random.default_rng(seed)
    # Not the network's own initialisation, which would have to be compiled.
    variables = jax.tree.map(lambda x: weights_of(rng, x.shape), shapes)
    workdir.mkdir()
    saved = checkpoint.Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0)
    saved.save(4, variables, force=True)
    saved.close()
    setup.save_description(workdir, parts)
    lines = [json.dumps(line) for line in lines_of(source.spec.names)]
    # The last line was cut short by a kill.
    (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 5, "sp']))
    result = {"seconds": 90.0, "command": "segjax train", "environment": {"git": None}}
    (workdir / "result.json").write_text(json.dumps(result))
    return workdir


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The workdirs."""
    folder = tmp_path_factory.mktemp("report")
    return [make_run(folder / name, seed) for seed, name in enumerate("ab")]


@pytest.fixture(scope="session")
def reported(runs):
    """What ``segjax report --workdir a --against b`` returns."""
    return report(runs[0], against=runs[1], output=runs[0].parent / "new" / "r.html")


def classifier_config(seed: int):
    """Of digits at 16x16, seen by SegNet-Basic."""
    config = configs.default()
    config.task, config.data.name = "classification", "digits"
    config.steps, config.seed = 4, seed
    config.model.encoder, config.data.image_size = "segnet_basic", (16, 16)
    config.data.batch_size, config.eval.batch_size = 64, 64
    configs.validate(config)
    return config


def make_classifier(workdir: Path, seed: int) -> Path:
    """A workdir as training leaves it, with weights drawn here."""
    config = classifier_config(seed)
    source = setup.open_split(config, "val")
    pre = preprocessing(config, source.channels)
    parts = setup.make_parts(config, source.spec, pre, jax.local_devices()[:1])
    image = jax.ShapeDtypeStruct((1, 16, 16, source.channels), "float32")
    shapes = jax.eval_shape(parts.model.init, jax.random.key(0), image)
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda x: weights_of(rng, x.shape), shapes)
    workdir.mkdir()
    saved = checkpoint.Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0)
    saved.save(4, variables, force=True)
    saved.close()
    setup.save_description(workdir, parts)
    lines: list[dict] = []
    for step in (2, 4):
        shared = {
            "step": step,
            "loss": 2 / step,
            "top1": 0.1 * step,
            "top5": 0.2 * step,
        }
        lines.append(shared | {"split": "train"})
        each = dict.fromkeys(source.spec.names, 0.1 * step)
        lines.append(shared | {"split": "val", "accuracy_per_class": each})
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return workdir


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory):
    """The workdirs of two classifiers."""
    folder = tmp_path_factory.mktemp("classifiers")
    return [make_classifier(folder / name, seed) for seed, name in enumerate("ab")]


@pytest.fixture(scope="session")
def classified(classifiers):
    """What ``segjax report --workdir a --against b`` returns of them."""
    path = classifiers[0].parent / "r.html"
    return report(classifiers[0], against=classifiers[1], output=path)
