"""Every kind of encoder and decoder as ONNX and StableHLO; five as ONNX in CI."""

import json

import pytest

from tests.requirements import require_export

# A CNN with skips, pooling switches, shifted windows, tokens, dilation and pooling.
SOME = ["resnet18 unet", "vgg11_bn segnet", "swin_t unet", "vit_small dpt"]
SOME += ["resnet18 deeplabv3plus"]
LIMIT = 1e-4


@pytest.mark.parametrize("pair", SOME)
def test_a_pair_computes_the_same(pair):
    require_export()
    from benchmarks import export

    assert export.measure(*pair.split(), forms=["onnx"])["onnx"] <= LIMIT


@pytest.mark.slow
def test_every_pair_computes_the_same():
    require_export()
    from benchmarks import export

    for measure in export.cases().values():
        row = measure()
        assert row["onnx"] <= LIMIT and row["stablehlo"] <= LIMIT


def test_the_record_has_every_pair():
    require_export()
    from benchmarks import export

    rows = json.loads(export.RECORD.read_text())["rows"]
    assert set(rows) == set(export.cases()) > set(SOME)
    for row in rows.values():
        assert row["onnx"] <= LIMIT and row["stablehlo"] <= LIMIT
