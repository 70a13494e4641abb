"""benchmarks.speed.fsdp: what a device holds falls as its record says."""

import pytest

from benchmarks import record
from benchmarks.speed import fsdp
from tests.test_benchmarks import sample

ROWS = record.read(fsdp.RECORD)["rows"]


def test_the_pages_say_what_the_record_says():
    assert fsdp.render(record.read(fsdp.RECORD)) in fsdp.PAGE.read_text()
    page = (record.ROOT / "docs" / "reliability.md").read_text()
    assert fsdp.figure(ROWS) in page


@pytest.mark.parametrize("network", fsdp.NETWORKS)
def test_what_a_device_holds_falls(network):
    """The compiler's figure is the sum of the shards, to the byte."""
    rows = [ROWS[f"{network}, fsdp={n}"] for n in fsdp.SHARED]
    for row in rows:
        shards = row["state_bytes_per_device"] + row["batch_bytes_per_device"]
        assert row["argument_bytes_per_device"] == shards
    held = [row["state_bytes_per_device"] for row in rows]
    assert held[0] == rows[0]["state_bytes"]
    for before, after in zip(held, held[1:], strict=False):
        assert after < 0.6 * before


def test_rows_recompute_by_hand():
    for key in sample(ROWS):
        row = ROWS[key]
        found = fsdp.by_hand(row["network"], row["fsdp"])
        assert found == {name: row[name] for name in found}, key


def test_the_compiler_says_it_again():
    rows = [row for row in ROWS.values() if "basic" in row["network"]]
    (row,) = sample(rows, 1)
    found = fsdp.measure(row["network"], row["fsdp"])
    name = "argument_bytes_per_device"
    assert found[name] == row[name]
