"""benchmarks.speed.startup: when a step is done, and what a row says."""

import pytest

from benchmarks.speed import startup


def test_a_step_is_done_when_its_line_is_whole():
    first = '{"split": "train", "step": 1, "loss": 1.0}'
    assert not startup.is_done("") and not startup.is_done(first)
    assert startup.is_done(first + "\n")
    assert not startup.is_done('{"split": "val", "step": 1}\n')


def test_a_row_by_hand(monkeypatch):
    seconds = iter([10.0, 2.0, 9.0, 3.0, 8.0, 2.0])
    folders = []

    def first_step(arguments, workdir, cache):
        folders.append((workdir.name, cache))
        return next(seconds)

    monkeypatch.setattr(startup, "first_step", first_step)
    row = startup.measure(("x",), 3)
    assert (row["ratio"], row["ratio_range"]) == (4.0, [3.0, 5.0])
    # A cache is shared by the two starts of a round, and by no other round.
    assert [name for name, _ in folders] == ["first", "second"] * 3
    assert len({cache for _, cache in folders}) == 3


def test_a_run_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="the run ended"):
        startup.first_step(("no_such_file.py",), tmp_path / "w", tmp_path / "c")
