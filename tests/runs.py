"""Folders of runs of small networks with random weights, for what comes after."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.pairs import draw
from segjax import checkpoint, setup
from segjax import config as configs
from segjax.batch import ClassSpec, LabelSpec
from segjax.data.shapes import Shapes
from segjax.models import encoders
from segjax.preprocessing import preprocessing
from tests.models.families import SMALL

CLASSES = ("sky", "road", "car")
SPEC = LabelSpec(CLASSES, ((10, 20, 200), (90, 90, 90), (250, 0, 0)))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SIZE = (32, 64)
STEP = 7


def narrow(patch: pytest.MonkeyPatch, *names: str) -> None:
    """The encoders of these names in their small forms."""
    for name in names:
        made = getattr(encoders, name)
        fields = [field.name for field in dataclasses.fields(made.func)]
        options = {**dict(zip(fields, made.args, strict=False)), **made.keywords}
        patch.setattr(encoders, name, partial(made.func, **options | SMALL[name]))


def scenes() -> np.ndarray:
    """float32[4, H, W, 3]: the first of the evaluation split, normalised."""
    source = Shapes("val", image_size=SIZE)
    images = np.stack([source[i]["image"] for i in range(4)])
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def logits_of(model):
    """(variables, images) -> logits, compiled."""
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False))


def make_run(workdir: Path, *changes: str, task: str = "segmentation"):
    """A run's folder; returns the model and its variables.

    A ResNet-18 FCN-32s, or a ResNet-18 for whole images, of rendered scenes.
    """
    config = configs.default()
    config.task, config.steps, config.data.image_size = task, 1, SIZE
    config.data.mean, config.data.std = MEAN, STD
    config.model.encoder = "resnet18"
    if task == "segmentation":
        config.model.decoder = "fcn32s"
    configs.override(config, [f"--config.{change}" for change in changes])
    configs.validate(config)
    spec = SPEC if task == "segmentation" else ClassSpec(CLASSES)
    devices = jax.local_devices()[:1]
    parts = setup.make_parts(config, spec, preprocessing(config, 3), devices)
    shapes = setup.abstract_variables(parts)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draw(shapes, 0))
    # As often one class as another.
    last = variables["params"]["head"]
    last = last if "bias" in last else last["dense"]
    logits = np.asarray(logits_of(parts.model)(variables, scenes()))
    last["bias"] -= logits.reshape(-1, len(CLASSES)).mean(0)
    workdir.mkdir(parents=True)
    saved = checkpoint.Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0)
    saved.save(STEP, variables, force=True)
    saved.close()
    setup.save_description(workdir, parts)
    return parts.model, variables
