"""Two images learnt by heart: by every decoder, and by an encoder of every family.

    python -m benchmarks.overfit [--minutes 30] [--only 'resnet18 *']

A network that works reaches an mIoU above 0.95 on the two images that it is trained on.
Images are embedded scenes of 48x64, at 96x128 in squares of 2x2 pixels, so that the
deepest map has a dozen pixels. A decoder whose scores are further apart gets as much
larger squares of coarser scenes: the task is to label, not to guess what lies between
two scores. Running statistics are taken at their limit.
Record: docs/results/overfit.json; called again it goes on.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from segjax import config as configs
from segjax import setup, sharding
from segjax.augment import prepare_eval
from segjax.batch import Source
from segjax.metrics import confusion_matrix, summarize
from segjax.models import build, decoders, names
from segjax.preprocessing import preprocessing
from tests.models import families

RECORD = record.ROOT / "docs" / "results" / "overfit.json"
SCENE, SIZE = (48, 64), (96, 128)
WANTED, STEPS = 0.95, (150, 400)  # the second where the first is not enough
SETTINGS = (
    "data.batch_size=2",
    "augment.flip=0.0",
    "optim.schedule=one_cycle",
    "optim.weight_decay=0.0",
)


class Two:
    """The first two examples of a source; coarse: in squares of so many pixels.

    ``step`` is the distance at which the source's pixels are taken before.
    """

    def __init__(self, source: Source, step: int = 1, square: int = 1):
        self.source, self.step, self.square = source, step, square
        self.spec, self.channels = source.spec, source.channels

    def __len__(self):
        return 2

    def __getitem__(self, index):
        example = dict(self.source[index])
        for key in ("image", "label"):
            coarse = example[key][:: self.step, :: self.step]
            example[key] = coarse.repeat(self.square, 0).repeat(self.square, 1)
        return example


def settled(model, variables, images) -> dict[str, Any]:
    """The variables with the running statistics that many more steps would lead to.

    With a momentum of 0.99, as some networks have it, 400 steps leave 2 % of the
    initial variance of 1, where the activations' own may be a thousandth. A step is
    linear in the statistics, so steps from 0 and from 1 give momentum and limit.
    """
    stats = variables.get("batch_stats", {})
    if not jax.tree.leaves(stats):
        return variables

    @jax.jit
    def after(value, variables, images):
        stats = jax.tree.map(
            lambda s: jnp.full_like(s, value), variables["batch_stats"]
        )
        _, new = model.apply(
            {**variables, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return new["batch_stats"]

    from_zero, from_one = (after(value, variables, images) for value in (0.0, 1.0))
    limit = jax.tree.map(lambda a, b: a / (1 - (b - a)), from_zero, from_one)
    return {**variables, "batch_stats": limit}


def learn(config: Any, source: Any, settle: bool = False) -> dict[str, Any]:
    """Train on two images as segjax train does; the summary on the same two.

    ``settle``: with :func:`settled` running statistics.
    """
    pre = preprocessing(config, source.channels)
    # One device: batch statistics over parts of 2 images would only cost time.
    parts = setup.make_parts(config, source.spec, pre, jax.devices()[:1])
    tx, _ = setup.make_tx(config, config.steps)
    where = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state(tx))
    state = jax.jit(parts.init(tx), out_shardings=where)(jax.random.key(0))
    train_step = parts.train_step(tx, where)
    batch: Any = next(setup.train_batches(parts.config, source, 0))
    on_device: Any = sharding.to_devices(batch, parts.mesh)
    for _ in range(config.steps):
        state, metrics = train_step(state, on_device)
    images = prepare_eval(on_device["image"], on_device["size"], pre.mean, pre.std)
    variables = state.variables()
    if settle:
        variables = settled(parts.model, variables, images)
    model = parts.model
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    prediction, label = np.argmax(logits, -1), batch["label"]
    matrix = confusion_matrix(prediction, label, parts.spec.num_classes)
    return summarize(np.asarray(matrix), parts.spec.names) | {
        "loss": float(metrics["loss"])
    }


def coarseness(encoder: str, decoder: str) -> int:
    """How many pixels lie between two scores."""
    model = build(encoder, decoder, 2)
    image = jax.ShapeDtypeStruct((1, 192, 192, 3), np.float32)

    def scores(x):
        return model.init_with_output(jax.random.key(0), x, method="scores")[0]

    return 192 // jax.eval_shape(scores, image).array.shape[1]


def measure(encoder: str, decoder: str) -> dict[str, Any]:
    """A row; raises where the two images were not learnt."""
    row: dict[str, Any] = {}
    for steps in STEPS:
        row = attempt(encoder, decoder, steps)
        if row["miou"] > WANTED:
            return row
    raise AssertionError(f"not learnt: {row}")


def attempt(encoder: str, decoder: str, steps: int, *more: str) -> dict[str, Any]:
    """Train so many steps, with ``more`` overrides such as "optim.lr=3e-3"; a row."""
    jax.clear_caches()
    square = max(coarseness(encoder, decoder), 2)
    config = load(encoder, decoder, SIZE, steps, *more)
    scenes = setup.open_split(load(encoder, decoder, SCENE, steps), "train")
    source = Two(scenes, square // 2, square)
    summary = learn(config, source, settle=True)
    return {
        "encoder": encoder,
        "decoder": decoder,
        "size": list(SIZE),
        "square": square,
        "steps": steps,
        "lr": config.optim.lr,
        "miou": summary["miou"],
        "loss": summary["loss"],
    }


def load(
    encoder: str, decoder: str, size: Sequence[int], steps: int, *more: str
) -> Any:
    """The config of a run."""
    config = configs.default()
    texts = [
        *SETTINGS,
        f"steps={steps}",
        f"data.image_size=({size[0]}, {size[1]})",
        f"model.encoder={encoder}",
        f"model.decoder={decoder}",
        # What transformers are trained with; the others would take three times that.
        "optim.lr=1e-3",
        "optim.clip_norm=1.0",
        *more,
    ]
    configs.override(config, [f"--config.{text}" for text in texts])
    configs.validate(config)
    return config


def pairs() -> list[tuple[str, str]]:
    """Decoders on a resnet18 (or what they need); each family's smallest + unet."""
    special = {"tokens": "vit_small", "pooling switches": "vgg11_bn"}
    found = []
    for decoder in names()["decoders"]:
        needs = getattr(getattr(decoders, decoder).func, "needs", None)
        own = decoder in names()["encoders"]  # segnet_basic, of both kinds
        known = decoder if own else special[needs] if needs else "resnet18"
        found.append((known, decoder))
    for table in families._collect("PARAMETERS").values():
        found.append((min(table, key=table.get), "unet"))
    return list(dict.fromkeys(found))


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args()
    cases = {f"{e} {d}": lambda e=e, d=d: measure(e, d) for e, d in pairs()}
    cases = record.chosen(cases, args.only)
    command = "python -m benchmarks.overfit"
    failed = record.run(RECORD, cases, command, args.again, args.minutes)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
