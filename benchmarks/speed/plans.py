"""What the TPU compiler says of a training step: segjax's, and one of plain layers.

    python -m benchmarks.speed.plans [--minutes 60] [--only 'resnet50 unet*'] [--again]

Needs the extra [tpu] and no TPU. The plain contestant is the same network, parameters
and step with what Flax, JAX and optax give: convolutions of upsampled and concatenated
maps, batch norm with Flax's one-pass statistics, jax.image.resize,
optax.softmax_cross_entropy_with_integer_labels on float32 logits. Each row is one
device's share of a step; a ratio above 1 means that segjax's costs less. Cycles are the
compiler's estimate (docs: ``segjax plan``), not a measurement.
Record: docs/results/speed_plans.json; called again it goes on. Page: docs/plans.md.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
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
from segjax.ops import table
from segjax.ops.resize import resize_bilinear
from segjax.plan import plan

RECORD = record.ROOT / "docs" / "results" / "speed_plans.json"
PAGE = record.ROOT / "docs" / "plans.md"
CONFIG = record.ROOT / "configs" / "resnet_unet.py"
COMMAND = "python -m benchmarks.speed.plans"


@dataclass(frozen=True)
class Case:
    """A network, its images and the slice; ``options`` are config overrides."""

    encoder: str
    decoder: str
    size: int
    classes: int
    images: int  # per chip
    topology: str = "v5e:2x2"
    options: tuple[str, ...] = ()
    contest: bool = True  # beside plain layers


UNET = Case("resnet50", "unet", 256, 21, 16)
CASES = {
    "resnet50 unet 256": UNET,
    "resnet50 unet 256, 256 chips": replace(UNET, topology="v5e:16x16", contest=False),
    "resnet50 unet 256, statistics per device": replace(
        UNET, options=("model.norm_group=device",), contest=False
    ),
    "resnet50 deeplabv3plus 512": Case("resnet50", "deeplabv3plus", 512, 21, 8),
    "mit_b0 segformer 512": Case("mit_b0", "segformer", 512, 150, 8),
}
KEPT = (
    "estimated_cycles",
    "estimated_cycles_at_most",
    "share_without_estimate",
    "lower_bound",
    "bytes_accessed",
    "hbm_traffic",
    "peak_bytes",
    "model_flops",
    "estimated_images_per_s",
    "estimated_mfu",
    "collectives",
    "costliest_scopes",
    "compile_seconds",
)


def _resize(x: jax.Array, size: tuple[int, int], *, align_corners, **options):
    if x.shape[1:3] == tuple(size) or align_corners:
        return resize_bilinear(x, size, align_corners=align_corners, **options)
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
            ("segjax.ops.resize.resize_bilinear", _resize),  # of decoders
            ("segjax.losses.pixel.softmax_cross_entropy", _cross_entropy),
            ("segjax.ops.scores.softmax_cross_entropy", _cross_entropy),
        ):
            stack.enter_context(mock.patch(target, value))
        for name, choice in (("batch_norm", "one_pass"), ("in_strips", False)):
            chosen = mock.patch.object(table, name, lambda *rest, is_=choice: is_)
            stack.enter_context(chosen)
        yield


def _plain_model(make, config, classes, channels, platform, *rest, **options):
    return make(config, classes, channels, None, *rest, **options)


def measure(case: Case, plain: bool) -> dict[str, Any]:
    """The row of a contestant."""
    overrides = (
        f"model.encoder={case.encoder}",
        f"model.decoder={case.decoder}",
        f"data.image_size={case.size}",
        "model.dtype=bfloat16",
        *case.options,
    )
    with plain_layers() if plain else nullcontext():
        found: dict[str, Any] = plan(
            configs.load(str(CONFIG), overrides),
            f"{case.encoder} {case.decoder}",
            case.topology,
            batch_per_chip=case.images,
            classes=case.classes,
            steps=("train",),
        )
    row = {key: found["steps"]["train"].get(key) for key in KEPT}
    return row | {"images_per_chip": case.images} | dataclasses.asdict(case)


PAGE_HEAD = """# Training steps, by the TPU compiler

No TPU was used: libtpu compiles the real training step ahead of time, and its program
says in each fusion how many cycles it expects. Estimates are the compiler's, not
measurements; "at most" adds, at the memory's full rate, every byte of what has no
estimate (collectives, copies between HBM and the chip's own memory, which overlap with
computation as a rule). "Accessed" is XLA's count: of every array that an instruction
names, wherever it lies. "To and from HBM" are those that lie there, with the padding of
their tiles (`segjax/traffic.py`). One row is one device's share. The plain contestant
is the same network and step with the layers of Flax, `jax.image.resize` and optax's
cross-entropy.
"""


NOTES = """## What made it, what was tried, and what is left

Cycles of single formulations, in small programs of their own, and of steps before and
after; notes of November 2026 (libtpu 0.0.52 unless said), no command repeats them.

- An image's three channels: at 8 x 512x512 the compiler lays examples into lanes before
  the stem, a copy of 2.7 M cycles. By a product with zeros and ones (`pack_image`) and
  space-to-depth, SegFormer's stem (7x7 / 4, with its gradient and the augmentation's
  products) takes 1.0 M instead of 5.3, a ResNet's 2.2 instead of 8.9 where its result
  stays packed (64 channels fill half of the lanes), 5.9 where it does not. At 16 x
  256x256 there is nothing to gain: 1.9 and 2.0.
- The maxima of a packed map cost what they did, but their gradient is counted now:
  XLA's own, select-and-scatter, has no estimate (75 MB of a resnet50 unet's step). Rows
  before columns, or every phase's lanes at once by products, cost more.
- The loss in strips, 8 x 512x512, 150 classes: 24.1 -> 15.5 M. A reduction over classes
  alone takes 20 to 32 cycles a register, one that also writes what it reads 12; an
  index reduced as an integer is a pass of its own.
- The old state is kept where an update is not finite: a branch takes 1.0 M of a
  resnet50 unet's step more than a choice array by array.
- A transposed convolution whose kernel is turned about twice stores it twice: 0.3 M. A
  kernel of which parts are used is cast part by part, and pixels are counted in one
  product, not row by row: 0.6 M together.
- libtpu 0.0.42, which jax 0.10.2 names, took 0.8 M more for a resnet50 unet than 0.0.52
  did: the sum of exponentials in three passes, now one (8 bits, as the scores have:
  0.57 M; two products of 8 bits each cost more than three passes), and gradients turned
  about for the filter gradient of an upsampled map's convolution, now a strided one's
  (0.2 M).
- A batch norm's vectors stored as one array: +0.6 M, not taken.
- The loss of a U-Net (pixels side by side in the lanes): maxima by products that turn
  the lanes (+2.3 M of 5.9), by rotations with the classes apart (+2.0 M of 5.8), or
  stacked and spread by one product (+0.4 M): not taken.

### Bytes accessed: 24 GB of a target of 22

XLA's count is of every array an instruction names. Of a resnet50 unet's 24.1 GB 11.5
are those of fusions, wherever the arrays lie; 6.6 both ends of copies between HBM and
the chip's own memory; 3.1 the parts of such copies once more when they are joined,
which moves nothing; 2.9 were not taken apart. To and from HBM go 6.2 GB, of plain
layers 15.7. Tried: counts in one product and kernels cast by parts (24.4 -> 24.1);
rotations in place of maxima that are spread (1.74 -> 1.78 GB of the loss); a packed
stem at 256x256, too (24.5, and 1.0 M cycles more); more memory for fusions (below: 24.1
still).

### DeepLabV3+: 1.07 times fewer cycles than plain layers, of a target of 1.3

Of 61.8 M cycles 36 are the resnet50's blocks, which both contestants share; layer1's 64
channels fill half of the lanes (15.7 M). Tried:

- stem and maxima packed: 4.8 M less, of which the maxima's gradient takes 2 back that
  plain layers do not count;
- two columns of layer1 side by side, so that its lanes are full (with the maxima
  before it): 21.4 -> 18.5 M at 8 images per chip, but 12.2 -> 17.6 at 4 and 48.3 ->
  46.6 at 16, as only with 8 examples next to the lanes it needs no copy. Not taken: a
  layer does not know the images of a chip;
- more memory for fusions: 58.8 M, but plain layers may gain as much.

Left: the depthwise convolution of 304 channels (2.6 M) and the residual sums of 256
channels, 0.7 M each.

### More of the chip's memory for fusions

`LIBTPU_INIT_ARGS=--xla_tpu_scoped_vmem_limit_kib=32768` (the default is 16384), which
`segjax plan` and a run on a TPU both follow: resnet50 unet 32.7 -> 32.2 M, resnet50
deeplabv3plus 61.8 -> 58.8, segformer 72.7 -> 69.6. 24576, 49152 and more gain less.
Compiling takes longer (layer1 alone 62 -> 83 s, beside other work). Not the default: no
TPU was here to measure it.
"""


def render(content: Mapping[str, Any]) -> str:
    """The page of a record."""
    rows = content["rows"]
    header = (
        "training step, v5e, bfloat16",
        "images per chip",
        "estimated cycles",
        "at most",
        "accessed, XLA's count",
        "to and from HBM",
        "peak",
        "all-reduces",
        "images/s, estimated",
        "plain : segjax, cycles",
    )
    lines = []
    for key, row in rows.items():
        ours = rows.get(key.removesuffix(", plain"), row)
        times = "" if ours is row else ratio(row, ours)
        reduced = row["collectives"].get("all-reduce", {"count": 0, "bytes": 0})
        lines.append(
            (
                key,
                row["images_per_chip"],
                f"{row['estimated_cycles'] / 1e6:.1f} M",
                f"{row['estimated_cycles_at_most'] / 1e6:.1f} M",
                f"{row['bytes_accessed'] / 1e9:.1f} GB",
                f"{row['hbm_traffic'] / 1e9:.1f} GB",
                f"{row['peak_bytes'] / 1e9:.2f} GB",
                f"{reduced['count']}, {reduced['bytes'] / 1e6:.0f} MB",
                f"{row['estimated_images_per_s']:.0f}",
                times,
            )
        )
    table, where = record.table(header, lines), record.where(content)
    return f"{PAGE_HEAD}\n{table}\n\n{where}\n\n{_modules(rows)}\n\n{NOTES}"


def _modules(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the cycles go: the costliest modules, and the plain contestant's."""
    lines = []
    for key, row in rows.items():
        if f"{key}, plain" not in rows:
            continue
        theirs = {
            (found["module"], found["pass"]): f"{found['cycles'] / 1e6:.1f} M"
            for found in rows[f"{key}, plain"]["costliest_scopes"]
        }
        for found in row["costliest_scopes"][:6]:
            share = found["cycles"] / row["estimated_cycles"]
            lines.append(
                (
                    key,
                    f"{found['module']}, {found['pass']}",
                    f"{found['cycles'] / 1e6:.1f} M",
                    f"{100 * share:.0f} %",
                    theirs.get((found["module"], found["pass"]), "not of its ten"),
                )
            )
    header = ("step", "costliest modules", "cycles", "share", "plain layers'")
    return record.table(header, lines)


def ratio(plain: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The plain row's estimated cycles over segjax's."""
    return f"{plain['estimated_cycles'] / ours['estimated_cycles']:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan what is missing; returns the exit code."""
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args(arguments)
    cases = {}
    for name, case in CASES.items():
        cases[name] = partial(measure, case, False)
        if case.contest:
            cases[f"{name}, plain"] = partial(measure, case, True)
    chosen = record.chosen(cases, args.only)
    failed = record.run(RECORD, chosen, COMMAND, args.again, args.minutes)
    PAGE.write_text(render(record.read(RECORD)))
    print(PAGE.read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
