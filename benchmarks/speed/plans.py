"""What the TPU compiler says of a training step: segjax's, and one of plain layers.

    python -m benchmarks.speed.plans [--minutes 60] [--only 'resnet50 unet*'] [--again]

Needs the extra [tpu] and no TPU. The plain contestant is the same network, parameters
and step with what Flax, JAX and optax give: convolutions of upsampled and concatenated
maps, batch norm with Flax's one-pass statistics, jax.image.resize,
optax.softmax_cross_entropy_with_integer_labels on float32 logits. Each row is one
device's share of a step; a ratio above 1 means that segjax's costs less. Cycles are the
compiler's estimate (docs: ``segjax plan``), not a measurement.
Record: docs/results/speed_plans.json; called again it goes on.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks import record
from segjax import config as configs
from segjax import setup
from segjax.batch import IGNORE
from segjax.ops import resize, table
from segjax.plan import plan

RECORD = record.ROOT / "docs" / "results" / "speed_plans.json"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.speed.plans"
# name -> (encoder, decoder, pixels, classes, images per chip, topology)
CASES: dict[str, tuple[str, str, int, int, int, str]] = {
    "resnet50 unet 256": ("resnet50", "unet", 256, 21, 16, "v5e:2x2"),
    "resnet50 unet 256, 256 chips": ("resnet50", "unet", 256, 21, 16, "v5e:16x16"),
    "resnet50 deeplabv3plus 512": ("resnet50", "deeplabv3plus", 512, 21, 8, "v5e:2x2"),
    "mit_b0 segformer 512": ("mit_b0", "segformer", 512, 150, 8, "v5e:2x2"),
}
KEPT = (
    "estimated_cycles",
    "estimated_cycles_at_most",
    "share_without_estimate",
    "lower_bound",
    "bytes_accessed",
    "peak_bytes",
    "model_flops",
    "estimated_images_per_s",
    "estimated_mfu",
    "collectives",
    "costliest_scopes",
    "compile_seconds",
)


def _resize(x: jax.Array, size: tuple[int, int], *, align_corners: bool) -> jax.Array:
    if x.shape[1:3] == tuple(size) or align_corners:
        return resize.resize_bilinear(x, size, align_corners=align_corners)
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def _cross_entropy(logits, labels, *, class_weights=None, label_smoothing=0.0):
    del class_weights, label_smoothing  # the configs here have none
    valid = labels != IGNORE
    loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(valid, labels, 0)
    )
    return jnp.where(valid, loss, 0)


@contextmanager
def plain_layers() -> Iterator[None]:
    """Everything built within is plain."""
    model = partial(_plain_model, setup.make_model)
    with ExitStack() as stack:
        for target, value in (
            ("segjax.setup.make_model", model),
            ("segjax.ops.scores.resize_bilinear", _resize),
            ("segjax.losses.pixel.softmax_cross_entropy", _cross_entropy),
            ("segjax.ops.scores.softmax_cross_entropy", _cross_entropy),
        ):
            stack.enter_context(mock.patch(target, value))
        how = {name: mock.DEFAULT for name in ("batch_norm",)}
        found = stack.enter_context(mock.patch.multiple(table, **how))
        found["batch_norm"].return_value = "one_pass"
        yield


def _plain_model(make, config, classes, channels, platform, groups=1):
    return make(config, classes, channels, None, groups)


def measure(case: Sequence[Any], plain: bool) -> dict[str, Any]:
    """The row of a contestant."""
    encoder, decoder, size, classes, batch, topology = case
    overrides = (
        f"model.encoder={encoder}",
        f"model.decoder={decoder}",
        f"data.image_size={size}",
        "model.dtype=bfloat16",
    )
    config = configs.load(str(CONFIG), overrides)
    with plain_layers() if plain else ExitStack():
        found = plan(
            config,
            f"{encoder} {decoder}",
            topology,
            batch_per_chip=batch,
            classes=classes,
            steps=("train",),
        )
    row = {key: found["steps"]["train"].get(key) for key in KEPT}
    return row | {"topology": topology, "images_per_chip": batch, "classes": classes}


def table_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The markdown table."""
    header = (
        "training step, one v5e chip, bfloat16",
        "estimated cycles",
        "at most",
        "accessed",
        "peak",
        "images/s, estimated",
        "plain : segjax, cycles",
    )
    lines = []
    for key, row in rows.items():
        name = key.removesuffix(", plain")
        ours = rows.get(name)
        ratio = "" if ours is None or ours is row else _ratio(row, ours)
        lines.append(
            (
                key,
                f"{row['estimated_cycles'] / 1e6:.1f} M",
                f"{row['estimated_cycles_at_most'] / 1e6:.1f} M",
                f"{row['bytes_accessed'] / 1e9:.1f} GB",
                f"{row['peak_bytes'] / 1e9:.2f} GB",
                f"{row['estimated_images_per_s']:.0f}",
                ratio,
            )
        )
    return record.table(header, lines)


def _ratio(plain, ours) -> str:
    return f"{plain['estimated_cycles'] / ours['estimated_cycles']:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {}
    for name, case in CASES.items():
        cases[name] = partial(measure, case, False)
        if not name.endswith("chips"):
            cases[f"{name}, plain"] = partial(measure, case, True)
    chosen = record.chosen(cases, args.only)
    failed = record.run(RECORD, chosen, COMMAND, args.again, args.minutes)
    print(table_of(record.read(RECORD)["rows"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
