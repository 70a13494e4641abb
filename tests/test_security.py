"""What others may have written is read as data; predict writes below --output only."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from segjax import checkpoint, setup
from segjax import config as configs
from segjax.batch import LabelSpec
from segjax.data import inputs
from segjax.main import main
from segjax.predict import ENDINGS, save
from segjax.preprocessing import preprocessing
from segjax.writing import write_text

SPEC = LabelSpec(("a", "b"), ((0, 0, 0), (255, 255, 255)))
WATCHED = ("pickle.find_class", "marshal.loads", "os.system", "subprocess.Popen")
seen: list[str] | None = None


def listen(event, arguments):
    if seen is not None and event in WATCHED:
        seen.append(f"{event} {arguments[:2]}")


sys.addaudithook(listen)  # for the life of the process; silent while seen is None


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (1, 2, 3)).save(path, "png")


HOSTILE = (
    *("..png", "...png", "....png", "a..png", "a/...png", "a/..b.png", ".hidden.png"),
    *("-rf.png", "$(touch x).png", "`x`.png", "%2e%2e%2fx.png", "..\\x.png", "~.png"),
    *("a\nb.png", "a b.png", "\u202egnp.png", "boxes.json.png", "x.png.PNG"),
)


@pytest.fixture
def place(tmp_path):
    """(input folder, output folder), and a witness that all else stays as it was."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.png").write_bytes(b"precious")
    yield tmp_path / "in", tmp_path / "out"
    assert (outside / "victim.png").read_bytes() == b"precious"
    assert [p.name for p in outside.iterdir()] == ["victim.png"]
    assert {p.name for p in tmp_path.iterdir()} <= {"in", "out", "outside"}


def write_all(source: Path, output: Path) -> list[str]:
    """Write what ``predict`` would write for every image below ``source``."""
    errors = []
    items, _ = inputs.find([str(source)], output, ENDINGS)
    for item in items:
        for ending in ENDINGS:
            try:
                name = f"{item.name}{ending}.png"
                save(output, name, lambda path: path.write_bytes(b"x"))
            except ValueError as error:
                errors.append(str(error))
    return errors


def test_no_name_of_an_input_leads_out_of_the_output(place):
    source, output = place
    for name in HOSTILE:
        picture(source / name)
    assert write_all(source, output) == []
    written = [p for p in output.rglob("*") if p.is_file()]
    seen = [name for name in HOSTILE if not Path(name).name.startswith(".")]
    assert len(seen) > 9 and len(written) == len(ENDINGS) * len(seen)
    assert sorted(p.name for p in source.rglob("*") if p.is_file()) == sorted(
        Path(name).name for name in HOSTILE
    )


def test_links_in_the_output_are_not_followed(place):
    source, output = place
    outside = output.parent / "outside"
    for name in ("a.png", "more/b.png", "deep/er/c.png", "fine/d.png"):
        picture(source / name)
    output.mkdir()
    (output / "a.png").symlink_to(outside / "victim.png")
    (output / "a_overlay.png").symlink_to(outside / "new.png")
    (output / "more").symlink_to(outside)
    (output / "deep").symlink_to("..")
    errors = write_all(source, output)
    assert len(errors) == 2 * len(ENDINGS)
    assert all("a link leads out of --output" in error for error in errors)
    assert not (output / "a.png").is_symlink()
    assert (output / "a.png").read_bytes() == b"x"
    assert (output / "fine" / "d_overlay.png").is_file()


def test_links_in_the_input_are_read_and_stay(place):
    source, output = place
    picture(source / "a.png")
    (source / "link.png").symlink_to("a.png")
    (source / "loop").symlink_to("..")
    assert write_all(source, output) == []
    for name in ("a", "link"):
        assert (output / f"{name}.png").is_file()
    assert len(list(output.rglob("*"))) == 2 * len(ENDINGS)
    assert (source / "link.png").is_symlink()


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/tmp/segjax/x.png"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        save(tmp_path / "out", name, lambda path: path.write_bytes(b"x"))
    assert not (tmp_path / "out").exists() and not Path("/tmp/segjax").exists()


def test_a_link_where_a_temporary_file_goes_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("boxes.json", "boxes.json.tmp"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "boxes.json", "[]")
    assert victim.read_text() == "precious"
    assert (tmp_path / "boxes.json").read_text() == "[]"
    assert not (tmp_path / "boxes.json").is_symlink()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run's folder as another person might hand it on, of a tiny network."""
    folder = tmp_path_factory.mktemp("theirs")
    config = configs.default()
    text = "steps=1 model.encoder=segnet_basic model.decoder=segnet_basic"
    configs.override(config, [f"--config.{option}" for option in text.split()])
    parts = setup.make_parts(
        config, SPEC, preprocessing(config, 3), jax.local_devices()[:1]
    )
    variables = jax.jit(lambda key: parts.model.init(key, np.zeros((1, 64, 64, 3))))(
        jax.random.key(0)
    )
    saved = checkpoint.Checkpoints(folder / "checkpoints", keep_last=1)
    saved.save(1, variables)
    saved.close()
    setup.save_description(folder, parts)
    return folder


def test_a_workdir_is_read_as_data(workdir, tmp_path, monkeypatch):
    global seen
    folder, victim = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(workdir, folder)
    code = f"open({str(victim)!r}, 'w')\ndef get_config(): {code_of(victim)}\n"
    # Code, wherever something might look for it: beside the state, and as strings.
    for name in ("config.py", "__init__.py", "checkpoints/1/default/__init__.py"):
        (folder / name).write_text(code)
    for name in ("state.pkl", "checkpoints/1/default/state.pkl"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(victim))
    stored = json.loads((folder / "config.json").read_text())
    stored["data"]["train_split"] = f"$(touch {victim})"
    stored["model"]["pretrained"] = f"{{open({str(victim)!r}, 'w')}}"
    (folder / "config.json").write_text(json.dumps(stored))
    monkeypatch.chdir(folder)
    seen = []
    try:
        parts = setup.load_parts(folder, [], jax.local_devices()[:1])
        variables, step = setup.restore_variables(parts, folder, "latest")
        found = list(seen)
    finally:
        seen = None
    assert step == 1 and jax.tree.leaves(variables)
    assert found == [] and not victim.exists()
    assert parts.config.data.train_split == f"$(touch {victim})"


def code_of(victim: Path) -> str:
    return f"open({str(victim)!r}, 'w')"


@pytest.mark.parametrize(
    "key, value",
    [
        ("__class__", "os.system"),
        ("seed", {"py/reduce": ["os.system", ["true"]]}),
        ("data", {"__import__('os')": 1}),
        ("data", ["shapes"]),
        ("steps", "__import__('os')"),
        ("optim", {"lr_multipliers": {"*": {"a": 1}}}),
    ],
)
def test_a_config_of_strange_keys_is_refused(workdir, tmp_path, capsys, key, value):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    stored = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(stored))
    assert main(["evaluate", "--workdir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error and error.count("\n") == 1
