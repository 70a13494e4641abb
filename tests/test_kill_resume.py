"""benchmarks.faults.kill_resume: its short form, its reading of traces, its record."""

import numpy as np
import pytest

from benchmarks import record
from benchmarks.faults import kill_resume
from tests.requirements import xla_flags

SHORT = ("steps=8", "data.shapes.val_examples=8", "data.shapes.train_examples=16")


def test_killed_runs_end_as_the_one_left_alone(tmp_path, monkeypatch):
    # One device, whatever the tests have; what it compiles, later starts find.
    monkeypatch.setenv("XLA_FLAGS", xla_flags(1))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    # In the save of step 4, and from 2 on in the evaluation of step 8.
    row = kill_resume.measure(
        "SIGKILL",
        2,
        options=SHORT,
        cache=tmp_path / "cache",
        warm=False,
        moments=iter(["save 2", "evaluate 2", None]),
        module="tests.tiny",
    )
    assert (row["kills"], row["runs"], row["steps"]) == (2, 1, 8)
    assert row["arrays"] > 20 and row["batches"] >= 8
    assert {kill["code"] for kill in row["moments"]} == {-9}
    events = [kill["events"] for kill in row["moments"]]
    assert "save" in events[0] and "evaluate" in events[1]


def line(what, step=0, **values):
    return {"time": 0.0, "what": what, "step": step, **values}


@pytest.mark.parametrize(
    "events, half_written, expected",
    [
        ([], False, ["start"]),
        ([("open", "begin")], False, ["open"]),
        ([("open", "begin"), ("open", "end")], False, ["steps"]),
        ([("advance", "begin")], False, ["steps"]),
        # Half written, but by an earlier start: this one has not looked yet.
        ([], True, ["start"]),
        ([("open", "begin")], True, ["open"]),
        ([("open", "begin"), ("open", "end"), ("advance", "begin")], True, ["save"]),
        ([("save", "begin")], True, ["save"]),
        ([("save", "begin"), ("save", "end"), ("evaluate", "begin")], False, None),
        ([("open", "end"), ("evaluate", "begin")], True, ["evaluate", "save"]),
    ],
)
def test_what_a_kill_interrupted(tmp_path, events, half_written, expected):
    # What another start left open does not count.
    trace = [line("start"), line("evaluate", at="begin"), line("start")]
    trace += [line(what, step, at=at) for step, (what, at) in enumerate(events)]
    folder = tmp_path / "checkpoints" / ("3.orbax-checkpoint-tmp" * half_written)
    folder.mkdir(parents=True)
    found = kill_resume.interrupted(trace, tmp_path)
    assert found["events"] == (expected or ["evaluate"])
    begun = [step for step, (_, at) in enumerate(events) if at == "begin"]
    assert found["step"] == (begun[-1] if begun else 0)


def state():
    return {"a": np.arange(3, dtype=np.float32), "b": np.array(1, np.int32)}


def ending(**changes):
    same = {"log": [{"step": 1}], "result": {"miou": 0.5}, "pictures": {"a": b"x"}}
    return {**same, "latest": state(), "best": state(), **changes}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"log": [{"step": 2}]}, ["log"]),
        ({"result": {"miou": 0.25}}, ["result"]),
        ({"pictures": {"a": b"y"}}, ["pictures"]),
        ({"latest": state() | {"b": np.array(1, np.int64)}}, ["latest: b"]),
        ({"latest": state() | {"a": np.array([-0.0, 1, 2], "f4")}}, ["latest: a"]),
        ({"best": {"a": state()["a"]}}, ["best: other arrays"]),
    ],
)
def test_every_difference_is_named(changes, expected):
    assert kill_resume.differences(ending(**changes), ending()) == expected


def test_another_order_of_batches_is_seen():
    lines = [line("batch", step, crc32=10 + step) for step in (0, 1, 2, 1, 2, 3)]
    order = kill_resume.fed(lines)
    assert order == {0: {10}, 1: {11}, 2: {12}, 3: {13}}
    assert kill_resume.order_differences(order, order) == []
    twice = kill_resume.fed([*lines, line("batch", 2, crc32=99)])
    assert kill_resume.order_differences(twice, order) == ["batch 2"]


def test_the_record_keeps_what_the_page_says():
    rows = record.read(kill_resume.RECORD)["rows"]
    inside = rows["SIGKILL"]["inside"]
    assert rows["SIGKILL"]["kills"] >= 20
    assert inside["save"] >= 5 and inside["evaluate"] >= 3
    page = (record.ROOT / "docs" / "reliability.md").read_text()
    for row in rows.values():
        assert kill_resume.figure(row) in page
        moments = [kill["seconds"] for kill in row["moments"]]
        assert len(moments) == row["kills"]
        assert 0 <= min(moments) and max(moments) <= row["whole_run_seconds"]
