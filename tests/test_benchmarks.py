"""Generated pages are what their records and the code say; the counting is right."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import pytest
from scipy import stats

from benchmarks import classify_first, overfit, pairs, parity, record
from benchmarks import models as table
from segjax.flops import count_macs
from segjax.models import build_classifier, names
from tests.parity.reference import LIMIT

DOCS = record.ROOT / "docs"
RECORDED = record.read(parity.RECORD)


def macs_of(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_macs(function, *arrays)


def convolution(x, kernel, groups=1, strides=(1, 1), apart=(1, 1)):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        "SAME",
        lhs_dilation=apart,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_multiply_adds_by_hand():
    image, kernel = (2, 8, 6, 12), (3, 3, 12, 5)
    assert macs_of(convolution, image, kernel) == 2 * 8 * 6 * 5 * 9 * 12
    strided = macs_of(lambda x, k: convolution(x, k, strides=(2, 2)), image, kernel)
    assert strided == 2 * 4 * 3 * 5 * 9 * 12
    grouped = macs_of(lambda x, k: convolution(x, k, 12), image, (3, 3, 1, 24))
    assert grouped == 2 * 8 * 6 * 24 * 9
    # Transposed, stride 2: every pixel of the input meets every tap once.
    transposed = macs_of(
        lambda x, k: jax.lax.conv_transpose(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        image,
        (4, 4, 12, 5),
    )
    assert transposed == 2 * 8 * 6 * 5 * 16 * 12
    product = macs_of(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 4, 5), (3, 5, 6)
    )
    assert product == 3 * 4 * 5 * 6
    # A loop's body as often as it runs, also in a function of its own; not constants.
    weights = jnp.ones((5, 5))

    def loop(a):
        body = jax.checkpoint(lambda c, _: (c @ a, None))
        return jax.lax.scan(body, weights @ a, None, length=7)[0]

    assert macs_of(jax.jit(loop), (5, 5)) == 7 * 125


# torchvision's figures (_ops of its weights), at 224x224.
@pytest.mark.parametrize(
    "name, giga",
    [
        ("resnet50", 4.089),
        ("resnext50_32x4d", 4.23),
        ("mobilenet_v2", 0.301),
        ("swin_t", 4.491),
    ],
)
def test_multiply_adds_are_torchvisions(name, giga):
    model = build_classifier(name)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = count_macs(lambda v, x: model.apply(v, x), variables, image)
    assert abs(count / 1e9 - giga) < 0.0006


def sample(items, count=3):
    """Some of them, others for every commit (and the same within one)."""
    git = record.logs.environment()["git"] or {}
    seed = str(git.get("commit"))

    def place(item):
        return hashlib.sha256(f"{seed} {item}".encode()).digest()

    return sorted(items, key=place)[:count]


MODELS = (DOCS / "models.md").read_text()


def test_the_page_of_models_lists_exactly_what_there_is():
    encoders, decoders = MODELS.split("## Decoders")
    for text, known in ((encoders, "encoders"), (decoders, "decoders")):
        assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.M)) == names()[known]


def test_rows_of_the_page_of_models_recompute():
    for name in sample(names()["encoders"]):
        assert table.encoder_row(name) in MODELS
    for name in sample(names()["decoders"], 1):
        assert table.decoder_row(name) in MODELS


def test_the_catalogue_says_what_the_page_says():
    assert json.loads(table.CATALOGUE.read_text()) == table.catalogue(MODELS)


def test_the_record_of_parity_keeps_the_limit():
    rows = RECORDED["rows"]
    assert rows
    for key, row in rows.items():
        assert max(row["logits"], *row["stages"], 0) <= LIMIT, key
        assert row["commit"] and row["parameters"] > 0


def test_the_page_of_parity_is_what_the_record_renders_to():
    assert (DOCS / "parity.md").read_text() == parity.render(RECORDED)


def test_the_record_of_pairs_has_all_and_recomputes():
    rows = record.read(pairs.RECORD)["rows"]
    cases = pairs.cases()
    assert set(rows) == set(cases)
    for key in sample([key for key, row in rows.items() if row["seconds"] < 10], 1):
        found = cases[key]()
        for name in ("parameters", "without_gradient", "without_gradient_in_training"):
            assert found[name] == rows[key][name], key
        for name in ("smallest", "largest"):
            assert found[name] == pytest.approx(rows[key][name], rel=1e-6), key


def test_the_record_of_overfitting():
    rows = record.read(overfit.RECORD)["rows"]
    assert set(rows) == {" ".join(pair) for pair in overfit.pairs()}
    assert all(row["miou"] > overfit.WANTED for row in rows.values())


def test_the_record_of_classification_first():
    rows = record.read(classify_first.RECORD)["rows"]
    assert set(rows) == set(classify_first.cases())
    assert rows["classifier"]["top1"] > 2 / 6  # of six classes
    scratch, classified = (
        classify_first.scores(rows, arm) for arm in ("scratch", "classified")
    )
    assert (classified > scratch).all()
    assert stats.ttest_rel(classified, scratch).pvalue < 0.001
    text = (record.ROOT / "README.md").read_text()
    for values in (scratch, classified):
        assert classify_first.told(values) in text


def test_cases_have_different_keys():
    import importlib

    for name in parity.modules():
        keys = [parity.key_of(case) for case in importlib.import_module(name).CASES]
        assert len(keys) == len(set(keys)), name


def test_a_record_goes_on_where_it_stopped(tmp_path, capsys):
    path, calls = tmp_path / "r.json", []

    def case(name):
        def measure():
            calls.append(name)
            if name == "b":
                raise ValueError("too\nbad")
            return {"value": 1}

        return measure

    cases = {name: case(name) for name in "abc"}
    assert record.run(path, cases, "python -m x") == ["b"]
    assert "2/3 b: FAILED ValueError: too bad" in capsys.readouterr().out
    assert record.run(path, cases, "python -m x") == ["b"]
    assert calls == ["a", "b", "c", "b"]
    content = json.loads(path.read_text())
    assert list(content["rows"]) == ["a", "c"] and content["command"] == "python -m x"
    assert content["rows"]["a"]["value"] == 1 and "seconds" in content["rows"]["a"]
    assert record.run(path, cases, "python -m x", again=True, minutes=-1) == []
    assert "0/3 cases" in capsys.readouterr().out and len(calls) == 4
