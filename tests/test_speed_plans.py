"""benchmarks.speed.plans: the plain contestant is the same step; its page."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from benchmarks.speed import plans
from segjax.batch import IGNORE
from segjax.losses import build_loss
from segjax.ops import table
from segjax.ops.scores import Rule, Scores


def test_the_page_is_that_of_the_record():
    assert plans.PAGE.read_text() == plans.render(record.read(plans.RECORD))


def test_the_plain_layers_compute_the_same():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(size=(2, 4, 6, 5)), jnp.float32)
    labels = rng.integers(0, 5, (2, 16, 24))
    labels[0, :3] = IGNORE
    rule = Rule((16, 24), (16, 24))

    def loss(scores):
        return build_loss("cross_entropy").of_scores(Scores(scores, rule), labels)[0]

    ours = jax.value_and_grad(loss)(scores)
    with plans.plain_layers():
        plain = jax.value_and_grad(loss)(scores)
        assert not table.in_strips(1, (512, 512, 150), (2048, 2048))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_row_keeps_what_the_page_needs(monkeypatch):
    def fake(config, name, topology, **options):
        step = {key: 1.0 for key in plans.KEPT} | {"collectives": {}}
        return options | {"steps": {"train": step}}

    monkeypatch.setattr(plans, "plan", fake)
    row = plans.measure(plans.Case("alexnet", "fcn32s", 64, 4, 2), plain=True)
    assert row["images_per_chip"] == 2 and row["estimated_cycles"] == 1.0
