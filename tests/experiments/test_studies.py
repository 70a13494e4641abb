"""Every study file: what it says is complete, and its variants can be built."""

import ast
import json
from functools import partial

import jax
import numpy as np
import pytest

from experiments import report, store, study
from segjax import config as configs
from segjax import setup
from segjax.data import camvid, open_source, shapes
from segjax.preprocessing import preprocessing
from tests.requirements import require_data

PATHS = study.paths()
STUDIES = {path.stem: study.load(path) for path in PATHS}
SPECS = {"camvid": camvid.SPEC, "shapes": shapes.SPEC}
VARIANTS = [(name, variant) for name, s in STUDIES.items() for variant in s.variants]
# One variant of each network at each size: others have other losses, data or weights.
NETWORKS = {
    str([config.model[key] for key in ("encoder", "decoder", "upsampling")])
    + str(config.data.image_size): (name, variant)
    for name, variant in VARIANTS
    for config in [STUDIES[name].config(variant, 0)]
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_is_asked(name):
    found = STUDIES[name]
    assert len(found.hypothesis) > 50 and len(found.seeds) >= 3
    command = f"python -m experiments.run experiments/{name}.py"
    assert command in found.path.read_text()
    assert {v for pair in found.comparisons for v in pair} == {*found.variants}


def parts_of(name: str, variant: str) -> setup.Parts:
    """Network and loss of a variant: ImageNet's weights, if any, are not read."""
    config = STUDIES[name].config(variant, 0)
    config.model.pretrained = None
    spec = SPECS[config.data.name]
    return setup.make_parts(config, spec, preprocessing(config, 3), jax.devices()[:1])


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_a_variants_loss_and_optimizer_can_be_made(name, variant):
    parts = parts_of(name, variant)
    labels = jax.ShapeDtypeStruct((1, 4, 4), "int32")
    logits = jax.ShapeDtypeStruct((1, 4, 4, parts.spec.num_classes), "float32")
    assert jax.eval_shape(parts.loss.value, logits, labels).shape == ()
    setup.make_tx(parts.config, parts.config.steps)


@pytest.mark.parametrize("name, variant", NETWORKS.values())
def test_each_network_of_the_variants_can_be_traced(name, variant):
    parts = parts_of(name, variant)
    image = jax.ShapeDtypeStruct((2, *parts.pre.image_size, 3), "float32")
    init = partial(parts.model.init_with_output, train=False)
    logits, variables = jax.eval_shape(init, jax.random.key(0), image)
    assert logits.shape == (2, *parts.pre.image_size, parts.spec.num_classes)
    assert variables["params"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_study_imports_the_config_only(path):
    # So that segjax train --config takes it, from wherever it is called.
    tree = ast.parse(path.read_text())
    found = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert found == {"segjax.config"}


def test_the_class_weights_are_those_of_the_images():
    require_data("CamVid")
    source = open_source("camvid", "train")
    pixels, images = np.zeros(11), np.zeros(11)
    for i in range(len(source)):
        counts = np.bincount(source[i]["label"].ravel(), minlength=256)[:11]
        pixels += counts
        images[counts > 0] += counts.sum()
    share = pixels / images
    wanted = np.median(share) / share
    for name, variant in (("losses", "weighted"), ("segnet", "unpool")):
        given = STUDIES[name].config(variant, 0).loss.class_weights
        np.testing.assert_allclose(given, wanted, atol=1e-4)
    full = configs.load(str(study.FOLDER.parent / "configs/camvid_segnet_basic.py"))
    np.testing.assert_allclose(full.loss.class_weights, wanted, atol=1e-4)


@pytest.mark.parametrize("name", STUDIES)
def test_the_index_and_the_table_are_those_of_the_runs(name):
    found, kept = STUDIES[name], store.Store(store.FOLDER / name)
    analysis = report.analyse(found, kept)
    row = (found, report.short(analysis), report.commits(analysis.runs))
    text = report.INDEX.read_text()
    assert report.index([row], text) == text
    if analysis.runs:
        assert (kept.folder / "table.md").read_text() == report.results(analysis)
        assert (kept.folder / "verdict.md").read_text() == report.verdict(analysis)
        for variant, seed in analysis.runs:
            line = analysis.runs[variant, seed]
            now = study.settings(found.config(variant, seed))
            assert line["config"] == json.loads(json.dumps(now))


GOOD = (study.FOLDER / "encoders.py").read_text()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('PRIMARY = "miou"', 'PRIMARY = "mIoU"', "PRIMARY: 'mIoU' is no metric"),
        ('PRIMARY = "miou"', "", "PRIMARY is missing"),
        ("(0, 1, 2)", "(0, 1)", r"\(0, 1\) are fewer than 3"),
        ("one recipe?", "one recipe.", "begins with no question"),
        ('("alexnet", "resnet18")', '("alexnut", "resnet18")', "has 'alexnut'"),
        ('"model.encoder": name', '"model.encodr": name', "resnet18: .*encodr"),
        ("{name: {", "{f'a/{name}': {", "the variant 'a/resnet18' names"),
        ("(0, 1, 2)", "(0, 1, 2, 2)", "has one twice"),
        ("SEEDS = (0, 1, 2)", "SEEDS = 3", "SEEDS a tuple"),
        ('("alexnet", "resnet18"),', '("alexnet",),', "COMPARISONS pairs"),
        ("def variants():", "def variants():\n    1 / 0", "ZeroDivisionError"),
        (
            'config.model.decoder = "fpn"',
            'config.task = "classification"',
            "task='classification' has no confusion matrix",
        ),
    ],
)
def test_a_wrong_study_is_told_in_one_line(tmp_path, old, new, message):
    assert old in GOOD
    path = tmp_path / "wrong.py"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        study.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
