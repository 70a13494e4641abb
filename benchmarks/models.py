"""Every encoder and decoder: parameters, multiply-adds, strides, paper, references.

    python -m benchmarks.models --output docs/models.md

It also writes segjax/models/catalogue.json, the same for ``segjax models``. Nothing is
computed: networks are traced. Papers are the first paragraph of a family's file,
references the namings that weights come in.
"""

import functools
import inspect
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import record
from segjax import models
from segjax.flops import count_macs
from segjax.models import build, build_classifier, decoders, encoders, names

SIZE, CLASSES = 512, 21
# For decoders that need what a resnet50 does not have.
ENCODERS = ("resnet50", "vgg16_bn", "vit_base")


def number(count: int) -> str:
    return f"{count:,}"


def giga(count: int) -> str:
    return f"{count / 1e9:.2f}"


def parameters(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def traced(model) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Abstract variables of a model, and the image."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image), image


def family(package, name: str):
    """The module in which an encoder or a decoder is."""
    return inspect.getmodule(getattr(package, name).func)


def paper(module) -> str:
    """The first paragraph of a family's file."""
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


@functools.cache
def encoder_row(name: str) -> str:
    """A line of the encoders' tables; the classifier has 1000 classes."""
    model = build_classifier(name)
    variables, image = traced(model)
    own = {k: v["encoder"] for k, v in variables.items() if "encoder" in v}
    encoder = model.encoder
    macs = count_macs(lambda v, x: encoder.apply(v, x, train=False), own, image)
    cells = [
        f"`{name}`",
        " ".join(map(str, encoder.strides)),
        number(parameters(variables["params"])),
        number(parameters(own["params"])),
        giga(macs),
        ", ".join(encoder.namings) or "none",
    ]
    return record.table(cells, []).split("\n")[0]


def partner(name: str) -> str:
    """The encoder that a decoder is counted with."""
    needs = getattr(getattr(decoders, name).func, "needs", None)
    if needs is None:
        return ENCODERS[0]
    return next(
        e
        for e in (*ENCODERS, *names()["encoders"])
        if needs in getattr(getattr(encoders, e).func, "provides", ())
    )


@functools.cache
def decoder_row(name: str) -> str:
    """A line of the decoders' table."""
    encoder = partner(name)
    model = build(encoder, name, CLASSES)
    variables, image = traced(model)
    macs = count_macs(lambda v, x: model.apply(v, x), variables, image)
    rest = {k: v for k, v in variables["params"].items() if k != "encoder"}
    cells = [
        f"`{name}`",
        f"`{encoder}`",
        number(parameters(rest)),
        number(parameters(variables["params"])),
        giga(macs),
        "yes" if model.decoder.any_size else "padded",
        ", ".join(model.decoder.torch_parts) or "none",
        paper(family(decoders, name)),
    ]
    return record.table(cells, []).split("\n")[0]


def table(header: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([record.table(header, []), *rows])


def render() -> str:
    """docs/models.md."""
    parts = [
        "# Encoders and decoders",
        f"Made by `python -m benchmarks.models --output docs/models.md`. GMACs are "
        f"billions of multiply-adds of convolutions and matrix products for one image "
        f"of {SIZE}x{SIZE} (two FLOPs each), counted in the traced network. Weights "
        "are read and written in the names of the packages listed.",
        "## Encoders",
        "The classifier has 1000 classes. Parameters and GMACs of the encoder are "
        "without the classifier's head.",
    ]
    families: dict[Any, list[str]] = {}
    for name in encoders.__all__:
        families.setdefault(family(encoders, name), []).append(name)
    header = ("name", "strides", "classifier", "encoder", "GMACs", "weights")
    for module in sorted(families, key=lambda m: m.__name__):
        rows = [encoder_row(name) for name in families[module]]
        parts += [f"### {paper(module).removesuffix('.')}", table(header, rows)]
    header = ("name", "with", "decoder", "network", "GMACs", "any size", "weights")
    parts += [
        "## Decoders",
        f"With {CLASSES} classes, on the encoder named; GMACs are of the whole "
        "network, the decoder's parameters are with its head. Decoders that do not "
        "take any size get the image padded to the encoder's stride; a network takes "
        "every size.",
        table((*header, "paper"), [decoder_row(name) for name in names()["decoders"]]),
    ]
    return "\n\n".join(parts) + "\n"


CATALOGUE = record.ROOT / "segjax" / "models" / "catalogue.json"
_ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$")


def catalogue(page: str) -> dict[str, dict[str, Any]]:
    """What the page says, with what encoders provide and decoders need."""

    def count(text: str) -> int:
        return int(text.replace(",", ""))

    def listed(text: str) -> list[str]:
        return [] if text == "none" else text.split(", ")

    first, second = page.split("## Decoders")
    found: dict[str, dict[str, Any]] = {"encoders": {}, "decoders": {}}
    title = ""
    for line in first.splitlines():
        title = line.removeprefix("### ") if line.startswith("### ") else title
        if row := _ROW.match(line):
            strides, classifier, own, macs, weights = row[2].split(" | ")
            provides = getattr(getattr(encoders, row[1]).func, "provides", ())
            found["encoders"][row[1]] = {
                "family": title,
                "strides": [int(stride) for stride in strides.split()],
                "classifier": count(classifier),
                "encoder": count(own),
                "gmacs": float(macs),
                "weights": listed(weights),
                "provides": list(provides),
            }
    for line in second.splitlines():
        if row := _ROW.match(line):
            beside, own, whole, macs, _, weights, text = row[2].split(" | ")
            found["decoders"][row[1]] = {
                "paper": text,
                "with": beside.strip("`"),
                "decoder": count(own),
                "network": count(whole),
                "gmacs": float(macs),
                "weights": listed(weights),
                "needs": getattr(getattr(decoders, row[1]).func, "needs", None),
                # As JSON has them: tuples are lists.
                "options": json.loads(json.dumps(models.defaults_of(row[1]))),
            }
    return found


def write_catalogue(page: str) -> None:
    """catalogue.json, one line per name."""
    kinds = []
    for kind, rows in catalogue(page).items():
        lines = ",\n".join(
            f"  {json.dumps(n)}: {json.dumps(r)}" for n, r in rows.items()
        )
        kinds.append(f'"{kind}": {{\n{lines}\n}}')
    CATALOGUE.write_text("{\n" + ",\n".join(kinds) + "\n}\n")


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="docs/models.md")
    path = parser.parse_args().output
    path.write_text(render())
    write_catalogue(path.read_text())


if __name__ == "__main__":
    main()
