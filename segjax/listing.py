"""``segjax models | datasets | losses``: what there is, by name, as plain text.

Nothing is built and, but for losses, jax is not imported: networks' figures come from
models/catalogue.json, which ``python -m benchmarks.models`` writes with docs/models.md.
"""

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from segjax import config as configs
from segjax.config import nearest

WIDTH = 88


def catalogue() -> dict[str, dict[str, Any]]:
    """{"encoders": {name: facts}, "decoders": {name: facts}}."""
    # By its path: asking the package for it would import jax.
    path = Path(__file__).parent / "models" / "catalogue.json"
    return json.loads(path.read_text())


def matching(names: Iterable[str], pattern: str | None, what: str) -> list[str]:
    """The names that a pattern fits; one without ``*?[`` fits in part of a name.

    Raises:
      ValueError: none does.
    """
    names = list(names)
    if pattern is None:
        return names
    wanted = pattern.lower().replace("-", "_")
    if not any(c in wanted for c in "*?["):
        wanted = f"*{wanted}*"
    found = [name for name in names if fnmatchcase(name, wanted)]
    if not found:
        raise ValueError(
            f"none of the {what} fits {pattern!r}{nearest(pattern, names)}; "
            f"segjax {what} without a pattern lists all"
        )
    return found


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = [
        all(row[i][:1].isdigit() for row in rows) and i > 0 for i in range(len(header))
    ]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _options(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What can be set of decoders, as flags with the defaults where these are fixed."""
    own = configs.default().model
    lines = []
    for name, facts in chosen.items():
        for option, value in facts["options"].items():
            key = option if option in own else f"decoder_options.{option}"
            text = "" if value is None else _literal(value)
            lines.append(f"  {name}: --config.model.{key}={text}")
    return ["\n".join(("Options of decoders", *lines))] if lines else []


def _literal(value: Any) -> str:
    """As the command line takes it: JSON's lists are tuples."""
    return str(tuple(value) if isinstance(value, list) else value)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def models(pattern: str | None = None) -> str:
    """Encoders by family and decoders, with parameters; which pairs cannot be.

    Raises:
      ValueError: no name fits the pattern.
    """
    known = catalogue()
    every = [*known["encoders"], *known["decoders"]]
    wanted = set(matching(every, pattern, "models"))
    parts, families = [], {}
    for name, facts in known["encoders"].items():
        if name in wanted:
            families.setdefault(facts["family"], []).append((name, facts))
    header = ("encoder", "strides", "parameters", "GMACs", "weights")
    for family, members in families.items():
        rows = [
            (
                name,
                " ".join(map(str, facts["strides"])),
                _millions(facts["encoder"]),
                f"{facts['gmacs']:.1f}",
                ", ".join(facts["weights"]) or "none",
            )
            for name, facts in members
        ]
        parts.append(f"{family}\n{columns(header, rows)}")
    chosen = {n: facts for n, facts in known["decoders"].items() if n in wanted}
    if chosen:
        rows = [
            (
                name,
                _millions(f["decoder"]),
                f["with"],
                ", ".join(f["weights"]) or "none",
            )
            for name, f in chosen.items()
        ]
        header = ("decoder", "parameters", "counted with", "weights")
        parts.append(f"Decoders\n{columns(header, rows)}")
        parts += _options(chosen)
    parts.append(_pairs(known, wanted))
    return "\n\n".join(parts)


def _pairs(known: Mapping[str, Mapping[str, Any]], wanted: set[str]) -> str:
    """Which encoders a decoder goes with, where these are not all."""
    lines = []
    for name, facts in known["decoders"].items():
        needs = facts["needs"]
        if needs is None:
            continue
        able = [e for e, f in known["encoders"].items() if needs in f["provides"]]
        # A decoder of the list is shown its encoders, an encoder its closed doors.
        barred = wanted & ({*known["encoders"]} - {*able})
        if name in wanted or barred:
            lines.append(f"{name} needs {needs}: only with {', '.join(able)}")
    lines.append("Every other pair works, at any image size.")
    lines.append(
        "Parameters are without a classifier's head (encoders), with the head for 21 "
        "classes (decoders); GMACs for 512 x 512."
    )
    return "\n".join(textwrap.fill(t, WIDTH, subsequent_indent="  ") for t in lines)


def comments() -> dict[str, str]:
    """Knob -> what its comment in config.py says (the line's own)."""
    source = inspect.getsource(configs.default)
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, str] = {}

    def read(node: ast.expr, key: str) -> None:
        options = isinstance(node, ast.Call) and getattr(node.func, "id", "")
        if options == "_options":
            for keyword in node.keywords:  # type: ignore[attr-defined]
                read(keyword.value, f"{key}.{keyword.arg}")
        elif node.end_lineno in said:
            found[key] = said[node.end_lineno]

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            read(node.value, node.targets[0].attr)
    return found


def options(keys: Iterable[str]) -> str:
    """Lines ``--config.KEY=default  comment``."""
    known, said = configs.flatten(configs.default()), comments()
    rows = []
    for key in keys:
        value = tuple(known[key]) if isinstance(known[key], list) else known[key]
        rows.append((f"--config.{key}={value}", said.get(key, "")))
    width = max((len(key) for key, _ in rows), default=0)
    return "\n".join(f"    {key:{width}}  {text}".rstrip() for key, text in rows)


def _first(text: str | None) -> str:
    """The first paragraph of a docstring, wrapped."""
    line = " ".join((text or "").strip().split("\n\n")[0].split()).replace("``", "")
    return textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="  ")


def losses(pattern: str | None = None) -> str:
    """Every loss: what it is, and its options with their defaults.

    Raises:
      ValueError: no name fits the pattern.
    """
    from segjax.losses import LOSSES, OPTIONS

    parts = []
    for name in matching(LOSSES, pattern, "losses"):
        lines = [name, _first(LOSSES[name].__doc__)]
        lines.append(options(f"loss.{option}" for option in OPTIONS[name]))
        parts.append("\n".join(line for line in lines if line))
    parts.append(
        "Choose with --config.loss.name=NAME, or several:\n"
        "--config.loss.name=cross_entropy+dice '--config.loss.weights=(1.0,0.5)'"
    )
    return "\n\n".join(parts)


def datasets(pattern: str | None = None) -> str:
    """Every source of examples: what it reads, whether it is here, its options.

    Raises:
      ValueError: no name fits the pattern.
    """
    import importlib

    from segjax.data import NAMES, SOURCES

    parts = []
    known = configs.flatten(configs.default())
    for name in matching(NAMES, pattern, "datasets"):
        module = importlib.import_module(f"segjax.data.{name}")
        tasks = [task for task, of_it in SOURCES.items() if name in of_it]
        lines = [name, _first(module.__doc__), f"  for {', '.join(tasks)}", _here(name)]
        if name == "tfds":
            lines.append(_catalogued())
        own = [key for key in known if key.startswith(f"data.{name}.")]
        lines.append(options(own))
        parts.append("\n".join(line for line in lines if line))
    parts.append("Choose with --config.data.name=NAME [--config.data.root=DIR]")
    return "\n\n".join(parts)


def _here(name: str) -> str:
    """The splits that can be opened without a root, or why none can."""
    from segjax.data import splits

    if name == "folder":
        return "  needs --config.data.root=DIR, a folder with classes.json"
    if name == "tfds":
        return "  needs --config.data.tfds.builder=NAME, prepared in $TFDS_DATA_DIR"
    try:
        return f"  here: splits {', '.join(splits(name))}"
    except (ValueError, OSError) as error:
        return textwrap.fill(
            f"not here: {error}", WIDTH, initial_indent="  ", subsequent_indent="  "
        )


def _catalogued() -> str:
    """The tensorflow-datasets whose classes are known."""
    from segjax.data.catalog import KNOWN

    found = [f"{name} ({k.spec.num_classes} classes)" for name, k in KNOWN.items()]
    return textwrap.fill(
        f"masks known: {', '.join(found)}; any other with a classes.json",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
    )
