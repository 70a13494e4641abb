"""Three of the networks that CI leaves out, others for every commit."""

import importlib

import pytest

from benchmarks import parity, record
from tests.parity.reference import LIMIT
from tests.requirements import require_parity
from tests.test_benchmarks import sample


def left_out():
    """The cases marked slow, but for the large ones: (key, case)."""
    for name in parity.modules():
        for case in importlib.import_module(name).CASES:
            if case.slow and max(case.size) <= 131:
                yield parity.key_of(case), case


@pytest.mark.parametrize("turn", range(3))
def test_rows_recompute(turn):
    require_parity("torch")
    rows = record.read(parity.RECORD)["rows"]
    cases = dict(left_out())
    small = [key for key in cases if rows[key]["parameters"] < 30e6]
    assert len(small) > 20
    key = sample(small)[turn]
    row = cases[key].measure()
    assert max(row["logits"], *row["stages"], 0) <= LIMIT, key
    assert row["parameters"] == rows[key]["parameters"], key
