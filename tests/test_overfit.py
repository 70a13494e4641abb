"""A network that works learns two real images by heart."""

import jax
import numpy as np
import pytest

from segjax import config as configs
from segjax import setup, sharding
from segjax import step as steps
from segjax.augment import prepare_eval
from segjax.metrics import summarize
from segjax.preprocessing import preprocessing
from tests.requirements import require_data
from tests.test_train import QUICK


class First:
    """The first ``count`` examples of a source."""

    def __init__(self, source, count):
        self.source, self.count = source, count
        self.spec, self.channels = source.spec, source.channels

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.source[index]


@pytest.mark.slow  # 2 to 3 minutes; recorded in README.md
def test_two_camvid_images_are_learnt_by_heart():
    root = require_data("CamVid")
    config = configs.load(
        str(QUICK),
        [
            "--config.data.name=camvid",
            f"--config.data.root={root}",
            "--config.data.image_size=(48, 64)",
            "--config.data.batch_size=2",
            "--config.augment.flip=0.0",
            "--config.optim.lr=3e-3",
            "--config.optim.schedule=one_cycle",
            "--config.optim.weight_decay=0.0",
            "--config.steps=400",
        ],
    )
    source = setup.open_split(config, "train")
    pre = preprocessing(config, 3)
    # One device: batch statistics over 8 parts of 2 images would only cost time.
    parts = setup.make_parts(config, source.spec, pre, jax.devices()[:1])
    tx, _ = setup.make_tx(config, config.steps)
    abstract = parts.abstract_state(tx)
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    state = jax.jit(parts.init(tx), out_shardings=where)(jax.random.key(0))
    train_step = steps.make_train_step(
        parts.model,
        tx,
        parts.loss,
        setup.make_augment(config, pre),
        parts.mesh,
        where,
        num_classes=parts.spec.num_classes,
        seed=0,
    )
    batch = next(setup.train_batches(parts, First(source, 2), 0))  # type: ignore
    on_device = sharding.to_devices(batch, parts.mesh)
    for _ in range(config.steps):
        state, metrics = train_step(state, on_device)
    prediction = np.argmax(
        parts.model.apply(
            state.variables(),
            prepare_eval(batch["image"], batch["size"], pre.mean, pre.std),
            train=False,
        ),
        -1,
    )
    label, classes = batch["label"], parts.spec.num_classes
    matrix = np.zeros((classes, classes), np.int64)
    valid = label != 255
    np.add.at(matrix, (label[valid], prediction[valid]), 1)
    summary = summarize(matrix, parts.spec.names)
    assert summary["miou"] > 0.95, (summary, float(metrics["loss"]))
