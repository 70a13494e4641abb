"""docs/tour.ipynb runs from top to bottom and shows what it holds."""

import os
import subprocess
import sys

import pytest

from benchmarks import notebook, record
from tests.requirements import xla_flags


@pytest.fixture(scope="module")
def stored():
    return notebook.read()


def code_cells(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def kinds(cell) -> list[set[str]]:
    """The MIME types of a cell's outputs."""
    return [set(output.get("data", ["stream"])) for output in cell["outputs"]]


def test_it_is_stored_as_it_ran(stored):
    assert notebook.TOUR.stat().st_size < 300_000
    assert stored["nbformat"] == 4
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    counts = [cell["execution_count"] for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1))
    shown = set().union(*(kind for cell in code_cells(stored) for kind in kinds(cell)))
    assert shown == {"stream", "text/plain", "text/html", "image/png"}


def test_it_runs(stored, tmp_path):
    """With fewer steps, in a process of its own: one device, as a user's."""
    path = tmp_path / "ran.ipynb"
    code = (
        "from pathlib import Path; from benchmarks import notebook as n; "
        "fewer = {'config.steps = 300': 'config.steps = 10'}; "
        f"n.write(n.run(n.read(), fewer), Path({str(path)!r}))"
    )
    environment = os.environ | {"XLA_FLAGS": xla_flags(1)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=record.ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    again = notebook.read(path)
    for before, after in zip(code_cells(stored), code_cells(again), strict=True):
        assert kinds(after) == kinds(before), "".join(before["source"])


def test_a_cell_is_run_as_in_a_notebook():
    cells = [
        {"cell_type": "code", "source": ["x = 2\n", "print(x)\n", "x + 1"]},
        {"cell_type": "markdown", "source": "text"},
        {"cell_type": "code", "source": "x = 3\nNone"},
    ]
    ran = notebook.run({"cells": cells})["cells"]
    printed, result = ran[0]["outputs"]
    assert printed["text"] == ["2\n"] and result["data"] == {"text/plain": ["3"]}
    assert ran[2]["outputs"] == [] and ran[2]["execution_count"] == 2
    ran = notebook.run({"cells": cells}, {"x = 2": "x = 5"})["cells"]
    assert ran[0]["outputs"][0]["text"] == ["5\n"]
    with pytest.raises(ValueError, match="'no' is 0 times in the notebook"):
        notebook.run({"cells": cells}, {"no": "z"})
