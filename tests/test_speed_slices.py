"""benchmarks.speed.slices: the plans for 8 to 1024 chips, and their table."""

from benchmarks import record
from benchmarks.speed import slices

ROWS = record.read(slices.RECORD)["rows"]


def test_the_table_is_in_the_page():
    assert slices.render(record.read(slices.RECORD)) in slices.PAGE.read_text()


def test_the_record_has_every_slice():
    assert set(ROWS) == set(slices.CASES)
    chips = {row["chips"] for row in ROWS.values() if "error" not in row}
    assert {8, 64, 256, 1024} <= chips
    for row in ROWS.values():
        assert row["batch_size"] == row["chips"] * row["images_per_chip"]


def test_what_a_chip_holds_falls_with_fsdp_and_not_with_chips():
    held = {key: row["peak_bytes"] for key, row in ROWS.items()}
    alone = [b for key, b in held.items() if key.startswith("v5e") and " " not in key]
    assert max(alone) < 1.1 * min(alone)
    for slice_ in ("v5e:8x8", "v5e:16x16"):
        assert held[f"{slice_} fsdp=8"] < held[slice_]


def test_a_slice_that_does_not_compile_is_told(monkeypatch):
    def refuse(*args, **options):
        raise ValueError("too\nlarge")

    monkeypatch.setattr(slices, "plan", refuse)
    row = slices.measure("v5e:16x16 fsdp=8")
    assert row["error"] == "ValueError: too large"
    assert row["options"][-1] == "mesh.fsdp=8"
    assert "does not compile" in slices.line("a", row)[-1]


def test_a_row_keeps_what_the_table_needs(monkeypatch):
    def fake(config, name, topology, **options):
        assert config.model.encoder == "resnet18" and config.mesh.fsdp == 8
        step = dict.fromkeys(slices.KEPT, 1.0) | {"collectives": {}}
        found = {"chip": "TPU v5e", "chips": 64, "batch_size": 64 * 16}
        return found | {"steps": {"train": step}}

    monkeypatch.setattr(slices, "plan", fake)
    row = slices.measure("v5e:8x8 fsdp=8")
    assert slices.line("a", row)[1:3] == ["64", "1,024"]
    assert slices.line("a", row)[4] == "at least 1000.0 ms"
    assert slices.line("a", row | {"lower_bound": False})[4] == "1000.0 ms"
