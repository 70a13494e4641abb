"""A study and its runs, made up: no network is trained."""

from pathlib import Path

import numpy as np

from experiments import store, study
from segjax.metrics import summarize

NAMES = ("sky", "road", "car")
STUDY = '''"""Does a larger step help?

python -m experiments.run experiments/tiny.py
"""

from segjax.config import default

HYPOTHESIS = "It does, because the run is short."
PRIMARY = "miou"
SEEDS = (0, 1, 2)


def get_config():
    config = default()
    config.steps = 4
    config.data.image_size = (32, 40)
    config.data.batch_size = 8
    config.data.shapes.train_examples = 24
    config.data.shapes.val_examples = 11
    config.model.encoder = "segnet_basic"
    config.model.decoder = "fcn32s"
    config.checkpoint.every = 1
    config.logs.every = 1
    config.logs.pictures = 0
    config.logs.tensorboard = False
    return config


def variants():
    return {
        "small": {"optim.lr": 1e-4},
        "large": {"optim.lr": 1e-2},
        "same": {"optim.lr": 1e-4, "augment.flip": 0.5},
    }
'''


def make_study(folder: Path) -> study.Study:
    """The study's file in a folder, read."""
    path = folder / "tiny.py"
    path.write_text(STUDY)
    return study.load(path)


def counts_of(variant: str, seed: int, images: int = 12) -> np.ndarray:
    """int32[N, 3, 3]: 'large' is right more often than the others."""
    rng = np.random.default_rng([seed, *variant.encode()])
    truth = np.random.default_rng(0).integers(50, 400, (images, 3))
    right = {"large": 0.9}.get(variant, 0.7) + rng.normal(0, 0.01)
    wrong = np.rint(truth[:, :, None] * (1 - right) / 2 * (1 - np.eye(3)))
    hits = (truth - wrong.sum(-1))[..., None] * np.eye(3)
    return (wrong + hits).astype(np.int32)


def add_run(made: study.Study, kept: store.Store, variant: str, seed: int) -> dict:
    """A made-up run in the store; its line."""
    counts = counts_of(variant, seed)
    ids = np.array([f"image{i:02}" for i in range(len(counts))])
    kept.folder.mkdir(parents=True, exist_ok=True)
    path = kept.folder / "made_up.npz"
    np.savez_compressed(path, counts=counts, names=np.array(NAMES), ids=ids, macs=7)
    line = {
        "study": made.name,
        "variant": variant,
        "seed": seed,
        "command": "segjax train",
        "config": study.settings(made.config(variant, seed)),
        **summarize(counts.sum(0), NAMES),
        "loss": 0.5 + 0.1 * seed,
        "split": "val",
        "steps": 4,
        "seconds": 90.0,
        "parameters": 600_000,
        "macs": 123_000_000 * (1 + (variant == "large")),
        "data": {"examples": len(counts), "sha256": "0" * 64},
        "lock": [],
        "finished": "2026-11-25T12:00:00Z",
        "environment": {
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "versions": {"python": "3.11.7", "jax": "0.10.2"},
            "platform": {"processor": "abacus", "threads": 2, "jaxlib": "0.10.2"},
        },
    }
    kept.add(line, path)
    path.unlink()
    return line
