"""The speed benchmark refuses contestants that differ, and does its sums."""

import sys

import pytest

from benchmarks import record
from benchmarks.speed import (
    agreement,
    contest,
    convolutions,
    gradients,
    inference,
    operations,
    readme,
    resizing,
    training,
    winograd,
)
from benchmarks.speed.networks import Network
from segjax.ops import table
from tests.requirements import require_parity

NETWORK = Network("resnet18", "unet", batch=1, size=32, classes=3)
# A contestant without a network: its n-th step takes n milliseconds times its factor.
STUB = """
import json, sys
spec = json.loads(sys.argv[1])
factor = {"segjax": 1, "torch": 3, "compile": 2}[spec["side"]]
if spec["side"] == "compile" and spec["task"] == "training":
    sys.exit("no compiler")
log = open(spec["network"]["encoder"], "a")
print(json.dumps({"first": 2.0, "start_seconds": 1.0}), flush=True)
step = 0
for line in sys.stdin:
    if line.strip() == "peak":
        print(json.dumps({"peak": factor * 2**20}), flush=True)
        continue
    print(spec["side"], file=log, flush=True)
    step += 1
    seconds = [factor * step / 1000] * int(line.split()[1])
    print(json.dumps({"seconds": seconds}), flush=True)
"""


@pytest.mark.parity
def test_other_weights_are_not_timed():
    torch = require_parity("torch")
    require_parity("segmentation_models_pytorch")
    reference = agreement.make_reference(NETWORK)
    state = {name: t.clone() for name, t in reference.state_dict().items()}
    agreement.check({"logits": agreement.logits_error(NETWORK, reference, state)})
    with torch.no_grad():
        state["decoder.blocks.4.conv2.1.bias"][0] += 0.01
    error = agreement.logits_error(NETWORK, reference, state)
    with pytest.raises(ValueError, match="logits differ .* nothing is timed"):
        agreement.check({"logits": error})


def test_limits():
    agreement.check({"logits": 9e-5, "gradients": 9e-8})
    for errors in (
        {"logits": 2e-4},
        {"logits": 0.0, "gradients": 2e-7},
        {"logits": float("nan")},
    ):
        with pytest.raises(ValueError, match="nothing is timed"):
            agreement.check(errors)
    with pytest.raises(ValueError, match="first training step gives 2.0 here but 3.0"):
        contest.compare_first("training", {"segjax hugetlb": 2.0, "torch": 3.0})


def test_turns_and_table(tmp_path, monkeypatch):
    script, log = tmp_path / "stub.py", tmp_path / "log"
    script.write_text(STUB)
    monkeypatch.setattr(contest, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(contest, "agree", lambda *_: {"logits": 1e-6})
    network = Network(str(log), "unet", batch=4, size=256)
    everyone = (contest.SEGJAX, *contest.EAGER, *contest.COMPILED)
    path = tmp_path / "record.json"
    cases = {
        task: lambda task=task: contest.contest(
            network, task, everyone, rounds=3, steps=2, gradients=False
        )
        for task in ("inference", "training")
    }
    assert not record.run(path, cases, "command")
    assert log.read_text().split()[:8] == ["segjax", "torch", "torch", "compile"] * 2
    rows = record.read(path)["rows"]
    assert contest.ratios(rows["inference"], "torch") == pytest.approx([3, 3, 3])
    assert all(0 <= row["others_busy"] <= 1 for row in rows.values())
    content = record.read(path)
    for row in content["rows"].values():
        row["others_busy"] = 0.25
    lines = contest.render(content).splitlines()
    both = "3.00 (3.00-3.00) | 3.00 | {} | 1 | 3 | 3 | 25% |"
    assert lines[2] == "| inference | 2 | 6 | 4 | " + both.format("2.00 (2.00-2.00)")
    assert lines[3] == "| training | 2 | 6 | - | " + both.format("fails")
    assert rows["training"]["failed"] == {
        "compile hugetlb": "a contestant ended: no compiler"
    }


@pytest.mark.parametrize("command", [training, inference])
def test_recorded_contests_agreed_and_are_on_the_page(command):
    content = record.read(command.RECORD)
    for row in content["rows"].values():
        agreement.check(row["agreement"])
    if content["rows"]:
        page = (record.ROOT / "docs" / "speed.md").read_text()
        assert contest.render(content) in page


def test_recorded_convolutions_agreed_and_are_on_the_page():
    content = record.read(convolutions.RECORD)
    for row in content["rows"].values():
        assert row["error"] <= 1e-5
    page = (record.ROOT / "docs" / "speed.md").read_text()
    assert convolutions.render(content) in page


def test_recorded_resizings_agreed_and_are_on_the_page():
    content = record.read(resizing.RECORD)
    assert [*content["rows"]] == sorted(map(resizing.key, resizing.CASES))
    for row in content["rows"].values():
        assert max(row["errors"].values()) <= resizing.TOLERANCE
    page = (record.ROOT / "docs" / "speed.md").read_text()
    assert resizing.render(content) in page


def test_recorded_products_agreed_and_are_on_the_page(monkeypatch):
    """And the table takes them on one device."""
    monkeypatch.setattr(table.jax, "device_count", lambda: 1)
    content = record.read(winograd.RECORD)
    assert len(content["rows"]) == len(winograd.CASES)
    for case in winograd.CASES:
        size, c_in, c_out, d = case
        errors = content["rows"][winograd.key(case)]["errors"]
        found = [e for task in errors.values() for e in task.values()]
        assert len(found) == 4 and max(found) <= winograd.TOLERANCE
        same = (d, d), (d, d)
        shape = (3, 3, c_in, c_out)
        assert table.winograd("f4", (size, size), shape, (1, 1), same, (d, d))
    page = (record.ROOT / "docs" / "speed.md").read_text()
    assert winograd.render(content) in page


def test_readme_has_the_recorded_speeds():
    page = readme.PAGE.read_text()
    assert f"<!-- speed -->\n{readme.text()}\n<!-- /speed -->" in page


HLO = """\
%fused (a: f32[2,8,8,3], k: f32[3,3,3,4]) -> f32[2,8,8,4] {
  %a = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[3,3,3,4]{3,2,1,0} parameter(1)
  ROOT %convolution.1 = f32[2,8,8,4]{3,2,1,0} convolution(%a, %k), window={size=3x3 \
pad=1_1x1_1}, dim_labels=b01f_01io->b01f, \
metadata={op_name="jit(f)/jvp(net)/conv1/conv_general_dilated"}
}

ENTRY %main (x: f32[2,8,8,3], w: f32[3,3,3,4], g: f32[5000,6], h: f32[5000,7]) -> \
f32[6,7] {
  %x = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %w = f32[3,3,3,4]{3,2,1,0} parameter(1)
  %g = f32[5000,6]{1,0} parameter(2)
  %h = f32[5000,7]{1,0} parameter(3)
  %ynn_fusion.1 = f32[2,8,8,4]{3,2,1,0} fusion(%x, %w), kind=kCustom, calls=%fused
  %y = f32[2,8,8,4]{3,2,1,0} parameter(4)
  %convolution.2 = f32[3,3,3,4]{3,2,1,0} convolution(%x, %y), window={size=8x8 \
pad=1_1x1_1}, dim_labels=f01b_i01o->01bf
  ROOT %dot.1 = f32[6,7]{1,0} dot(%g, %h), lhs_contracting_dims={0}, \
rhs_contracting_dims={0}, \
metadata={op_name="jit(f)/transpose(jvp(net))/conv2/dot_general"}
}
"""


def test_operations_are_counted_and_named():
    found = operations.described(HLO)
    name = "jit(f)/jvp(net)/conv1/conv_general_dilated"
    assert found["ynn_fusion.1"] == ("f32[2,8,8,4]", name, 2 * 512 * 27, False)
    assert found["dot.1"][2:] == (2 * 42 * 5000, True)
    assert found["convolution.2"][2:] == (2 * 108 * 128, True)
    assert operations.kind(name, 1.0, False) == "convolutions forward"
    back = "transpose(jvp(net))/conv2/dot_general"
    assert operations.kind(back, 1.0, True) == "filter gradients"
    assert operations.kind(back, 1.0, False) == "input gradients"
    deep = "transpose(jvp(net))/conv2/input_gradient/conv_general_dilated"
    assert operations.kind(deep, 1.0, True) == "input gradients"
    copies = "transpose(jvp(net))/conv2/filter_gradient/cond/concatenate"
    assert operations.kind(copies, 0.0, False) == "copies for filter gradients"
    assert operations.kind("jvp(net)/bn1/sub", 0.0, False) == "norms and activations"
    assert operations.kind("jvp(loss)/exp", 0.0, False) == "loss"
    assert all(
        operations.CONTROL.match(n) for n in ("while.3.clone.1", "cond.5.clone", "call")
    )
    assert not operations.CONTROL.match("conditional_add_fusion.1")


def test_recorded_operations_add_up_and_are_on_the_page():
    content = record.read(operations.RECORD)
    for row in content["rows"].values():
        total = sum(k["milliseconds"] for k in row["segjax"]["kinds"].values())
        assert 0.8 < total / row["segjax"]["milliseconds"] < 1.2
    page = (record.ROOT / "docs" / "speed.md").read_text()
    assert operations.render(content) in page


def test_recorded_gradients_agreed_and_are_on_the_page():
    content = record.read(gradients.RECORD)
    assert len(content["rows"]) == len(gradients.CASES) + len(gradients.UNPADDED)
    for row in content["rows"].values():
        assert row["error"] <= gradients.TOLERANCE
        assert row["formulations"]["xla"] == "plain"
    # What the table says today.
    for case in gradients.CASES:
        row = content["rows"][gradients.key(case)]
        for name, devices in (("shared", 2), ("alone", 1)):
            assert row["formulations"][name] == gradients.formulation(case, devices)
    page = (record.ROOT / "docs" / "speed.md").read_text()
    assert gradients.render(content) in page
