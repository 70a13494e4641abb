"""ONNX and StableHLO of small forms of encoders, decoders, classifiers, beside JAX.

    python -m benchmarks.export [--minutes 30] [--only 'resnet18 *']

Random weights, an image size that nothing divides, a batch other than any that was
traced. Record: docs/results/export.json; called again it goes on.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx  # pyright: ignore[reportMissingImports]

from benchmarks import record
from benchmarks.pairs import draw, encoders
from segjax.export import agreement, stablehlo
from segjax.export import onnx as exporter
from segjax.export.network import Network
from segjax.models import build_classifier
from tests.models import families
from tests.models.test_contract import SMALL_PAIRS, small, traced

RECORD = record.ROOT / "docs" / "results" / "export.json"
SIZE, BATCH, CLASSES = (97, 131), 2, 5
CLASSIFIER = "classifier"  # in a decoder's place
FORMS = {"onnx": exporter, "stablehlo": stablehlo}
ABOUT = {"preprocessing": {}, "classes": [], "palette": []}


def network(encoder: str, decoder: str) -> Network:
    """A small form of the pair, or of the classifier, its weights random."""
    jax.clear_caches()
    if decoder == CLASSIFIER:
        model = build_classifier(encoder, CLASSES)
        model = model.clone(encoder=model.encoder.clone(**families.SMALL[encoder]))
    else:
        model = small(encoder, decoder)
    shapes = traced(model, (1, *SIZE, 3))[1]
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), draw(shapes, 0))
    variables = {k: v for k, v in variables.items() if k != "auxiliary"}
    return Network(model, variables, SIZE)


def measure(encoder: str, decoder: str, forms: Sequence[str] = tuple(FORMS)) -> dict:
    """A row: relative differences, agreement of the classes, ONNX's nodes."""
    made = network(encoder, decoder)
    shape = (BATCH, *SIZE, 3)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted = np.asarray(jax.jit(made.apply)(made.variables, jnp.asarray(image)))
    row: dict = {"encoder": encoder, "decoder": decoder}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network")
        for name in forms:
            form = FORMS[name]
            form.write(made, path, ABOUT)
            found = agreement.compare(form.read(path)(image), wanted)
            row[name] = found["relative_difference"]
            row[f"{name}_argmax_agreement"] = found["argmax_agreement"]
            assert found["argmax_equal"], f"{name} has other classes"
            assert row[name] <= agreement.TOLERANCE, f"{name} differs by {row[name]}"
            if name == "onnx":
                nodes = onnx.load(str(path)).graph.node
                row["nodes"] = dict(sorted(Counter(n.op_type for n in nodes).items()))
    return row


def pairs() -> list[tuple[str, str]]:
    """Every kind of encoder with one decoder, every decoder with one encoder.

    And a classifier of every family.
    """
    return [*SMALL_PAIRS, *((name, CLASSIFIER) for name in encoders())]


def cases() -> dict[str, Callable[[], dict]]:
    """Every pair and the function that measures."""
    return {f"{e} {d}": partial(measure, e, d) for e, d in pairs()}


def render(recorded) -> str:
    """The record as a table."""
    rows = [
        [r["encoder"], r["decoder"], f"{r['onnx']:.1e}", f"{r['stablehlo']:.1e}"]
        for r in recorded["rows"].values()
    ]
    return record.table(["encoder", "decoder", "ONNX", "StableHLO"], rows)


def main() -> int:
    parser = record.parser(__doc__)
    record.add_flags(parser)
    args = parser.parse_args()
    command = "python -m benchmarks.export"
    return record.carry_out(RECORD, cases(), command, args, render)


if __name__ == "__main__":
    sys.exit(main())
