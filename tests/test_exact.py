"""Counts do not depend on devices, batches, padding or order; pictures hardly do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import config as configs
from segjax import setup, sharding
from segjax.batch import IGNORE
from segjax.evaluate import evaluate_split
from segjax.metrics import Confusion, confusion_matrix
from segjax.preprocessing import preprocessing
from tests.test_train import QUICK

K, EXAMPLES = 7, 13
DEVICES = (1, 2, 4, 8)


def counted(truth, guess, order, batch_size, devices, platform):
    """int64[K, K] of all examples, batch by batch, the last one filled with IGNORE."""
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    rows = sharding.batch_sharding(mesh)
    count = jax.jit(lambda g, t: confusion_matrix(g, t, K, platform))
    total = Confusion(K)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        label = np.full((batch_size, *truth.shape[1:]), IGNORE, np.uint8)
        label[: len(chosen)] = truth[chosen]
        found = np.zeros(label.shape, np.int32)
        found[: len(chosen)] = guess[chosen]
        total.add(count(*(jax.device_put(x, rows) for x in (found, label))))
    return total.matrix


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_counts_are_the_same_integers_whatever_the_layout(platform):
    rng = np.random.default_rng(3)
    truth = rng.choice([*range(K - 1), IGNORE], (EXAMPLES, 9, 11)).astype(np.uint8)
    guess = rng.integers(0, K, truth.shape)
    kept = truth != IGNORE
    wanted = np.bincount(truth[kept].astype(int) * K + guess[kept], minlength=K * K)
    wanted = wanted.reshape(K, K)
    assert wanted.sum() == kept.sum()
    for devices in DEVICES:
        for batch_size in (8, 16):
            order = rng.permutation(EXAMPLES)
            found = counted(truth, guess, order, batch_size, devices, platform)
            np.testing.assert_array_equal(found, wanted)


def test_an_evaluation_differs_between_device_counts_at_ties_alone():
    """Where two device counts choose different classes, scores are as good as equal.

    The counts agree with the predictions, pixel by pixel, on each.
    """
    config = configs.load(
        str(QUICK),
        [
            f"--config.{o}"
            for o in (
                "data.image_size=(32, 32)",
                "data.batch_size=8",
                f"data.shapes.val_examples={EXAMPLES}",
                "model.encoder=segnet_basic",
                "model.decoder=segnet_basic",
            )
        ],
    )
    source = setup.open_split(config, "val")
    pre = preprocessing(config, source.channels)
    variables, logits, before = None, None, None
    for devices in DEVICES:
        parts = setup.make_parts(config, source.spec, pre, jax.devices()[:devices])
        if variables is None:
            image = jnp.zeros((1, 32, 32, 3))
            variables = jax.jit(parts.model.init)(jax.random.key(0), image)
            images = np.stack([source[i]["image"] for i in range(EXAMPLES)]) / 255
            images = ((images - pre.mean) / pre.std).astype(np.float32)
            logits = np.asarray(jax.jit(parts.model.apply)(variables, images))
        summary, shown = evaluate_split(
            parts,
            parts.eval_step(),
            jax.device_put(variables, sharding.replicated(parts.mesh)),
            source,
            show=range(EXAMPLES),
        )
        found = np.stack([shown[i] for i in range(EXAMPLES)])
        truth = np.stack([source[i]["label"] for i in range(EXAMPLES)])
        assert summary["pixels"] == (truth != IGNORE).sum()
        hits = ((found == truth) & (truth != IGNORE)).sum()
        assert summary["pixel_accuracy"] == hits / summary["pixels"]
        best = np.sort(logits, -1)
        gap = (best[..., -1] - best[..., -2]) / np.abs(best[..., -1])
        for other in (before, logits.argmax(-1)):
            if other is not None:
                differs = found != other
                assert np.all(gap[differs] < 1e-4), gap[differs].max()
                assert differs.mean() < 1e-3
        before = found
