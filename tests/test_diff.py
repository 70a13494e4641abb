"""How two runs differ: config, data, code, versions; and the exit code."""

import json
import subprocess

import pytest

from experiments.store import Store
from segjax import config as configs
from segjax import diff
from segjax.main import main
from tests.experiments.made_up import add_run, make_study

RESULT = {
    "miou": 0.5,
    "pixel_accuracy": 0.75,
    "loss": 1.0,
    "split": "val",
    "pixels": 100,
    "share_per_class": {"sky": 0.25, "road": 0.75},
    "environment": {
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
        "git": {"commit": "a" * 40, "dirty": False},
        "platform": {"processor": "abacus", "threads": 2},
    },
}
LABELS = {"names": ["sky", "road"], "preprocessing": {"mean": [0.5], "fit": "resize"}}


def workdir(folder, name, settings=(), result=None, labels=None):
    path = folder / name
    path.mkdir()
    config = configs.default()
    config.steps = 4
    configs.override(config, settings)
    (path / "config.json").write_text(configs.to_json(config))
    (path / "labels.json").write_text(json.dumps(labels or LABELS))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return str(path)


def changed(path: str, value):
    """RESULT with another value at a path."""
    copy = json.loads(json.dumps(RESULT))
    *parents, last = path.split("/")
    target = copy
    for key in parents:
        target = target[key]
    target[last] = value
    return copy


def test_equal_runs_differ_in_nothing(tmp_path, capsys):
    a, b = (workdir(tmp_path, name, result=RESULT) for name in "ab")
    assert main(["diff", a, b]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "result, line",
    [
        (changed("environment/versions/jax", "0.10.3"), 'versions.jax: "0.10.2" | "0.'),
        (changed("environment/platform/threads", 8), "platform.threads: 2 | 8"),
        (changed("environment/git/commit", "b" * 40), 'code.commit: "aaaa'),
        (changed("environment/git/dirty", True), "code: uncommitted changes"),
        (changed("share_per_class/sky", 0.5), "data.share.sky: 0.25 | 0.5"),
    ],
)
def test_each_kind_of_difference_is_the_only_one_told(tmp_path, capsys, result, line):
    a = workdir(tmp_path, "a", result=RESULT)
    b = workdir(tmp_path, "b", result=result)
    assert main(["diff", a, b]) == 1
    (told,) = capsys.readouterr().out.splitlines()
    assert told.startswith(line)


def test_configs_labels_and_results_are_compared(tmp_path, capsys):
    a = workdir(tmp_path, "a", result=RESULT)
    flags = ["--config.optim.lr=0.5", "--config.optim.lr_multipliers.encoder/*=0.1"]
    labels = {**LABELS, "names": ["sky", "street"]}
    b = workdir(tmp_path, "b", flags, changed("miou", 0.625), labels)
    assert main(["diff", a, b]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "config.optim.lr: 0.001 | 0.5",
        "config.optim.lr_multipliers.encoder/*: absent | 0.1",
        'data.labels.names: ["sky", "road"] | ["sky", "street"]',
        "result.miou: 0.500000 | 0.625000 (+0.125000)",
    ]


def test_results_that_nothing_explains_are_a_difference(tmp_path, capsys):
    a = workdir(tmp_path, "a", result=RESULT)
    b = workdir(tmp_path, "b", result=changed("loss", 1.5))
    assert main(["diff", a, b]) == 1
    assert "results differ though nothing that is recorded does" in (
        capsys.readouterr().out
    )


def test_commits_with_the_same_code_are_the_same(tmp_path, monkeypatch):
    def git(*arguments):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(path, text):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        git("add", ".")
        git("commit", "-q", "-m", "x")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    first = commit("segjax/a.py", "1\n")
    second = commit("README.md", "words\n")
    third = commit("segjax/a.py", "2\n")
    monkeypatch.setattr(diff, "__file__", str(tmp_path / "segjax" / "diff.py"))
    assert diff.changed_files(first, second) == []
    assert diff.changed_files(first, third) == ["segjax/a.py"]
    assert diff.changed_files(first, "f" * 40) is None
    facts = [
        {"config": {}, "data": {}, "versions": {}, "platform": {}, "result": {}}
        | {"code": {"commit": commit, "changed": False}}
        for commit in (first, second, third)
    ]
    assert diff.report(facts[0], facts[1]) == ([], True)
    lines, same = diff.report(facts[1], facts[2])
    assert not same and lines[-1] == "code.files: segjax/a.py"


def test_runs_of_a_study(tmp_path, capsys):
    made, kept = make_study(tmp_path), Store(tmp_path / "results")
    add_run(made, kept, "small", 0)
    add_run(made, kept, "large", 0)
    names = [f"{tmp_path / 'results'}:{run}" for run in ("small-0", "large-0")]
    assert main(["diff", *names]) == 1
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "config.optim.lr: 0.0001 | 0.01"
    assert all(line.startswith("result.") for line in first[1:])
    assert main(["diff", names[0], names[0]]) == 0


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "nowhere is neither a run's workdir nor FOLDER:VARIANT-SEED"),
        ("{}/results:smal-0", "has no run 'smal-0'; did you mean small-0?; it has"),
        ("{}", "no config.json; is it a run's workdir?"),
    ],
)
def test_what_is_no_run_is_told(tmp_path, capsys, name, message):
    made, kept = make_study(tmp_path), Store(tmp_path / "results")
    add_run(made, kept, "small", 0)
    assert main(["diff", name.format(tmp_path), "x"]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
