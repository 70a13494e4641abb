"""Runs docs/tour.ipynb from top to bottom, without Jupyter, and keeps what it shows.

    python -m benchmarks.notebook

The code cells run in one namespace, as in a fresh kernel; the last expression of a cell
is shown as a notebook would.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def read(path: Path = TOUR) -> dict[str, Any]:
    """The notebook (nbformat 4)."""
    return json.loads(path.read_text())


def write(notebook: dict[str, Any], path: Path = TOUR) -> None:
    """As Jupyter writes it."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def run(
    notebook: dict[str, Any], replaced: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The notebook with the outputs of its code cells.

    ``replaced``: text -> what is run in its place, each of which occurs once.
    """
    text = json.dumps(notebook)
    for old, new in (replaced or {}).items():
        if text.count(old) != 1:
            raise ValueError(f"{old!r} is {text.count(old)} times in the notebook")
        text = text.replace(old, new)
    notebook = json.loads(text)
    scope: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = _run_cell("".join(cell["source"]), scope, count)
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _run_cell(source: str, scope: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and what its last expression is."""
    tree, value = ast.parse(source), None
    last = tree.body[-1] if tree.body else None
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if isinstance(last, ast.Expr):
            tree.body.pop()
            exec(compile(tree, f"cell {count}", "exec"), scope)
            expression = ast.Expression(last.value)
            value = eval(compile(expression, f"cell {count}", "eval"), scope)
        else:
            exec(compile(tree, f"cell {count}", "exec"), scope)
    outputs: list[dict[str, Any]] = []
    if said.getvalue():
        text = said.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": count,
                "metadata": {},
                "data": _shown(value),
            }
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    """MIME type -> content, by the methods that IPython asks for."""
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_().splitlines(keepends=True)
    if hasattr(value, "_repr_png_") and (png := value._repr_png_()):
        data["image/png"] = base64.b64encode(png).decode()
        data["text/plain"] = [f"<{type(value).__name__}>"]
    return data


def main() -> int:
    write(run(read()))
    print(f"{TOUR}: {TOUR.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
