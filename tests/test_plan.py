"""segjax plan: what it tells of the real steps, with and without libtpu."""

import importlib.metadata
import json

import pytest

from segjax import config as configs
from segjax import main
from segjax import plan as plans
from segjax.chips import CHIPS, chip_of

CONFIG = """
from segjax.config import default

def get_config():
    config = default()
    config.steps = 10
    config.data.image_size = (64, 64)
    config.data.batch_size = 4
    config.model.encoder = "alexnet"
    config.model.decoder = "fcn32s"
    config.data.shapes.train_examples = config.data.shapes.val_examples = 4
    return config
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def no_libtpu(monkeypatch):
    def version(name, real=importlib.metadata.version):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_without_libtpu_the_cpus_analysis_is_told(config_file, no_libtpu, capsys):
    output = config_file.parent / "plan.json"
    command = ["plan", "--config", str(config_file), "--topology", "v5e:2x2"]
    flags = ["--batch-per-chip", "2", "--output", str(output)]
    assert main.main([*command, *flags]) == 0
    printed = capsys.readouterr().out
    assert "libtpu is not installed" in printed and "segjax[tpu]" in printed
    result = json.loads(output.read_text())
    assert result["chip"] == "CPU" and result["batch_size"] == 2
    train, evaluation = result["steps"]["train"], result["steps"]["eval"]
    assert "estimated_cycles" not in train and "fits" not in train
    # Forward, and about twice that backward.
    assert 2.5 < train["model_flops"] / evaluation["model_flops"] < 3.2
    assert train["peak_bytes"] > 0 and train["bytes_accessed"] > 0
    # The second time nothing is compiled.
    assert main.main([*command, *flags]) == 0
    assert capsys.readouterr().out.count("known from") == 2
    assert json.loads(output.read_text())["steps"] == result["steps"]


def test_without_libtpu_a_config_of_many_devices_is_told_too(config_file, no_libtpu):
    overrides = ["mesh.fsdp=2", "mesh.spatial=2", "model.norm_group=2"]
    config = configs.load(str(config_file), [f"--config.{o}" for o in overrides])
    found = plans.plan(config, "tiny", "v5e:2x2", classes=4, steps=("eval",))
    assert found["devices"] == 1 and found["steps"]["eval"]["peak_bytes"] > 0


def test_other_compiler_flags_are_another_plan(config_file, monkeypatch):
    class Lowered:
        compiled = 0

        def as_text(self):
            return "program"

        def compile(self):
            Lowered.compiled += 1
            raise InterruptedError

    folder = plans.cache.folder("programs")
    row = plans.Compiled("", 1.0, 1.0, 1, 1, 1.0)
    content = plans.json.dumps(plans.dataclasses.asdict(row)).encode()
    versions = [importlib.metadata.version("jaxlib"), "cpu", str(plans._libtpu())]
    stem = plans.hashlib.sha256("\n".join([*versions, "program"]).encode())
    (folder / f"{stem.hexdigest()}.json.gz").write_bytes(plans.gzip.compress(content))
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    assert plans.compile_step("train", Lowered(), "cpu", print) == row
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_latency_hiding=true")
    with pytest.raises(InterruptedError):
        plans.compile_step("train", Lowered(), "cpu", print)


def test_two_plans_side_by_side(config_file, no_libtpu, capsys):
    other = config_file.with_name("larger.py")
    sizes = "batch_size = 8\n    config.eval.batch_size = 2"
    other.write_text(CONFIG.replace("batch_size = 4", sizes))
    paths = [str(config_file), str(other)]
    output = config_file.parent / "both.json"
    flags = ["--topology", "v5e:2x2", "--output", str(output), "--classes", "4"]
    assert main.main(["plan", "--compare", *paths, *flags]) == 0
    assert "second : first" in capsys.readouterr().out
    first, second = json.loads(output.read_text())
    for step, larger in (("train", 2), ("eval", 0.5)):
        flops = [r["steps"][step]["model_flops"] for r in (first, second)]
        assert flops[1] == larger * flops[0]


def test_the_bound_is_of_what_goes_to_and_from_hbm():
    text = """HloModule jit_f, is_scheduled=true

%double (p: bf16[16,8,64]) -> bf16[16,8,64] {
  %p = bf16[16,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %d = bf16[16,8,64]{2,1,0:T(8,128)(2,1)} add(%p, %p)
}

ENTRY %main (a: bf16[16,8,64]) -> bf16[16,8,64] {
  %a = bf16[16,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %b = bf16[16,8,64]{2,1,0:T(8,128)(2,1)} fusion(%a), calls=%double, \
backend_config={"window_config":{"estimated_cycles":"1500"}}
}
"""
    compiled = plans.Compiled(
        text, flops=9.0, bytes=1e9, peak=10, temporary=5, seconds=1.0
    )
    row = plans.describe(compiled, CHIPS["v5e"], 1000, images=4, devices=2, tpu=True)
    moved = 2 * (16 * 8 * 128 * 2)  # read and written, in lanes of 128
    assert (row["hbm_traffic"], row["bytes_accessed"]) == (moved, 1e9)
    assert row["roofline_seconds"] == moved / 819e9
    assert row["intensity"] == 1000 / moved
    assert row["estimated_seconds"] == pytest.approx(1e-6)


def test_a_tpu_slice(config_file):
    if plans.tpu_devices("v5e:2x2") is None:
        pytest.skip("libtpu is not installed: [tpu] extra")
    config = configs.load(str(config_file))
    result = plans.plan(config, "tiny", "v5e:2x2", batch_per_chip=2)
    assert (result["chips"], result["batch_size"]) == (4, 8)
    for row in result["steps"].values():
        assert row["fits"] and row["estimated_cycles"] > 0
        seconds = row["estimated_cycles"] / CHIPS["v5e"].clock
        assert row["estimated_images_per_s"] == pytest.approx(8 / seconds)
        assert 0 < row["estimated_mfu"] < 1
        assert row["estimated_seconds"] > 0 and row["roofline_seconds"] > 0
    # The gradients are summed over the devices: 4 bytes a parameter at least.
    reduced = result["steps"]["train"]["collectives"]["all-reduce"]
    assert reduced["count"] >= 1 and reduced["bytes"] > 4 * 2e6


@pytest.mark.parametrize(
    "topology, words",
    [
        ("v9:2x2", "'v9' is not one of v4, v5e, v5p, v6e"),
        ("v5e", "as v5e:4x4"),
        ("v5e:4by4", "as v5e:4x4"),
    ],
)
def test_unknown_topologies(config_file, topology, words, capsys):
    command = ["plan", "--config", str(config_file), "--topology", topology]
    assert main.main(command) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_chips_clocks_follow_from_their_peak():
    # FLOP/s / (2 x multiply-adds per cycle): cores x matrix units x side^2.
    units = {"v4": 4 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for name, per_cycle in units.items():
        chip = chip_of(f"{name}:2x2")
        assert chip.flops / (2 * per_cycle) == pytest.approx(chip.clock, rel=0.005)


def test_a_classifier_is_planned_with_any_number_of_classes(config_file, no_libtpu):
    overrides = ["task=classification", "data.shapes.val_examples=200"]
    overrides += ["data.shapes.train_examples=3000", "model.decoder=unet"]
    config = configs.load(
        str(config_file), [f"--config.{o}" for o in (*overrides, "data.image_size=63")]
    )
    data = plans.describe_data(config, 1000)
    assert data.spec.num_classes == 1000
    lowered, macs = plans.lower_steps(config, data, plans.jax.devices()[:1])
    assert set(lowered) == {"train", "eval"}
    # AlexNet's three dense layers alone: 9216 x 4096 + 4096 x 4096 + 4096 x 1000.
    assert macs["eval"] > 4 * (9216 * 4096 + 4096 * 4096 + 4096 * 1000)
