"""The launcher starts itself anew with huge pages: once, and only where it computes."""

import os
import subprocess
import sys

import pytest

# Python runs it at every start of an interpreter.
LOG_START = """
import os
with open(os.environ["LOG"], "a") as file:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), file=file)
"""
ON = "glibc.malloc.hugetlb=1"
EVALUATE = ("evaluate", "--workdir", "missing")


@pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
    reason="glibc only",
)
@pytest.mark.parametrize(
    "arguments, given, starts",
    [
        (EVALUATE, {}, ["None", ON]),
        (EVALUATE, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, "both"),
        (EVALUATE, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "given"),
        (EVALUATE, {"SEGJAX_HUGETLB": "0"}, ["None"]),
        (("--help",), {}, ["None"]),
        (("evaluate", "--help"), {}, ["None"]),
        (("evaluate",), {}, ["None"]),  # without --workdir: a mistake
    ],
)
def test_starts_anew_once(arguments, given, starts, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LOG_START)
    names = ("GLIBC_TUNABLES", "SEGJAX_HUGETLB")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {"PYTHONPATH": str(tmp_path), "LOG": str(tmp_path / "log"), **given}
    done = subprocess.run(
        [sys.executable, "-m", "segjax.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == (0 if "--help" in arguments else 2)
    if isinstance(starts, str):
        first = given["GLIBC_TUNABLES"]
        starts = [first] if starts == "given" else [first, f"{first}:{ON}"]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [tunables for _, tunables in lines] == starts
    assert len({process for process, _ in lines}) == 1


def test_a_call_from_python_stays_in_its_process(monkeypatch, capsys):
    from segjax.main import main

    def fail(*_):
        raise AssertionError("started anew")

    monkeypatch.setattr(os, "execve", fail)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert main(EVALUATE) == 2
    assert "missing" in capsys.readouterr().err
