"""What README says is what the records say and what the tree holds."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Of runs; the other records there have tests and documents of their own.
RECORDS = [
    path
    for path in sorted((ROOT / "docs" / "results").glob("*.json"))
    if "miou" in json.loads(path.read_text())
]


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_the_table_of_results_repeats_the_records(path):
    record = json.loads(path.read_text())
    (row,) = [line for line in README.splitlines() if f"results/{path.name}" in line]
    for number in (f"{record['miou']:.3f}", f"{record['pixel_accuracy']:.3f}"):
        assert number in row
    assert record["environment"]["git"]["commit"].startswith(
        re.findall(r"`([0-9a-f]{7})`", row)[0]
    )
    assert not record["environment"]["git"]["dirty"]
    config = re.findall(r"\(configs/\w+\.py\)", row)[0][1:-1]
    assert config in record["command"]
    assert f"mIoU {record['miou']:.3f}" in (ROOT / config).read_text()


def test_the_table_of_classifiers_repeats_its_record():
    record = json.loads((ROOT / "docs/results/digits_resnet18.json").read_text())
    (row,) = [line for line in README.splitlines() if "digits_resnet18.json" in line]
    for number in (f"{record['top1']:.3f}", f"{record['top5']:.3f}"):
        assert f"| {number} |" in row
    assert f"`{record['environment']['git']['commit'][:7]}`" in row
    assert not record["environment"]["git"]["dirty"]
    text = (ROOT / "configs" / "digits_resnet18.py").read_text()
    assert f"top-1 {record['top1']:.3f}" in text
    # A nearest neighbour in the 64 values reaches 0.956 on this split.
    assert record["top1"] > 0.9


def test_the_results_keep_the_promises_of_the_shapes():
    # A network that sees more scores more: U-Net 0.10 above FCN-32s, trained alike.
    scores = {p.stem: json.loads(p.read_text())["miou"] for p in RECORDS}
    assert scores["resnet_unet"] >= 0.80
    assert scores["resnet_unet"] - scores["resnet_fcn32s"] >= 0.10


def test_the_results_keep_the_promises_of_the_pretrained_weights():
    # The same fine-tune in PyTorch with SMP gave 0.545.
    scores = {p.stem: json.loads(p.read_text())["miou"] for p in RECORDS}
    assert scores["camvid_lite0_unet"] >= 0.535
    assert scores["camvid_lite0_unet"] - scores["camvid_lite0_unet_scratch"] >= 0.10


def test_links_lead_somewhere():
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / target).exists(), target
