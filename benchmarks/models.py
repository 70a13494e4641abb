"""Every encoder and decoder: parameters, multiply-adds, strides, paper, references.

    python -m benchmarks.models --output docs/models.md

Nothing is computed: networks are traced. Papers are the first paragraph of a family's
file, references the namings that weights come in.
"""

import functools
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import record
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


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="docs/models.md")
    parser.parse_args().output.write_text(render())


if __name__ == "__main__":
    main()
