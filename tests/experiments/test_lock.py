"""requirements.lock: it parses, and names all that segjax asks for."""

import platform
import re
import tomllib

import pytest

from experiments import lock


def test_the_lock_names_every_direct_dependency_exactly():
    locked = lock.read()
    project = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in lock.EXTRAS:
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=~!; ]", text)[0].lower() for text in wanted}
    assert names <= {*locked}, names - {*locked}
    assert names == lock.direct() and {"jaxlib", "orbax-checkpoint"} <= {*locked}
    assert "segjax" not in locked and [*locked] == sorted(locked)


def test_an_inexact_line_is_told(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text("# head\n\njax==0.10.2  # a comment\nnumpy>=2\n")
    with pytest.raises(ValueError, match=r"lock:4: 'numpy>=2' is not name==version"):
        lock.read(path)
    path.write_text("jax==0.0.1\nno-such-package==1.0\n")
    first, second = lock.differences(path)
    assert first.startswith("jax 0.") and first.endswith(", not 0.0.1")
    assert second == "no-such-package missing, not 1.0"


def test_another_python_is_told(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text(lock.text({}))
    assert lock.differences(path) == []
    here = platform.python_version()
    path.write_text(lock.text({}).replace(f"Python {here},", "Python 3.99.1,"))
    assert lock.differences(path) == [f"python {here}, not 3.99.1"]


def test_what_is_needed_is_followed_to_its_end(monkeypatch):
    needs = {
        "a": ["b>=1", "c[x]; python_version > '3'", "d; sys_platform == 'plan9'"],
        "b": ["A"],
        "c": ["e; extra == 'x'", "f; extra == 'y'"],
        "e": None,
    }
    monkeypatch.setattr(lock, "_own", lambda extras: ["a", "b"])
    monkeypatch.setattr(lock.importlib.metadata, "requires", needs.__getitem__)
    monkeypatch.setattr(lock.importlib.metadata, "version", lambda name: f"1.{name}")
    assert lock.resolve() == {n: f"1.{n}" for n in "abce"}
