"""Some of the networks that CI leaves out, others for every commit."""

import importlib

import pytest

from benchmarks import parity, record
from tests.parity import test_fcn_segnet as papers
from tests.parity import test_mit as mit
from tests.parity import test_smp_decoders as decoders
from tests.parity import test_torchvision as torchvision
from tests.parity import test_upernet as upernet
from tests.parity import test_vit as vit
from tests.parity.reference import LIMIT
from tests.requirements import require_parity
from tests.test_benchmarks import sample


def left_out():
    """The cases marked slow, but for the large ones: (key, case)."""
    for name in parity.modules():
        for case in importlib.import_module(name).CASES:
            if case.slow and max(case.size) <= 131:
                yield parity.key_of(case), case


@pytest.mark.parametrize("turn", range(2))
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


def gradients():
    """{decoder: (case, size)} of the gradients of the image that CI leaves out."""
    cases = [(case, decoders.gradient_size(case)) for case in decoders.SMALL]
    cases += [(mit.SEGFORMERS[0], (32, 32)), (vit.DPTS[0], (32, 32))]
    cases += [(upernet.CASES[4], (32, 40))]
    networks = torchvision.FCN_RESNET50, torchvision.LRASPP_64
    cases += [(case, (32, 32)) for case in (*networks, *papers.GRADIENTS)]
    return {case.decoder: (case, size) for case, size in cases}


@pytest.mark.parametrize("turn", range(2))
def test_gradients_by_turns(turn):
    require_parity("torch")
    found = gradients()
    case, size = found[sample(found)[turn]]
    case.check_input_gradient(size)
