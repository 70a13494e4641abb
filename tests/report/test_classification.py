"""A classifier's page says what its probabilities say, and its intervals are known."""

import base64
import zlib

import jax
import numpy as np
import pytest
from scipy import stats

from segjax import setup
from segjax.classify import central_crop, evaluate_images
from segjax.data.image_batches import whole_or_centre
from segjax.localize import Localizer
from segjax.report import classification, frame, guesses, report
from segjax.report.account import EXAMPLES
from segjax.report.guesses import Guesses
from tests.report.test_page import Page, cells, check_page


@pytest.fixture(scope="module")
def text(classified):
    return classified["path"].read_text()


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


@pytest.fixture(scope="module")
def networks(classifiers):
    """(parts, variables) of both runs."""
    device = jax.devices()[:1]
    found = [setup.load_parts(workdir, [], device) for workdir in classifiers]
    return [
        (parts, setup.restore_variables(parts, workdir, "latest")[0])
        for parts, workdir in zip(found, classifiers, strict=True)
    ]


@pytest.fixture(scope="module")
def truths(networks):
    source = setup.open_split(networks[0][0].config, "val")
    return np.array([int(source[i]["label"]) for i in range(len(source))])


@pytest.fixture(scope="module")
def chances(networks):
    """float64[N, 10] of both runs: softmax in NumPy of the network's own logits."""
    found = []
    for parts, variables in networks:
        source = setup.open_split(parts.config, "val")
        size, crop = parts.pre.image_size, central_crop(parts)
        images = np.stack(
            [
                whole_or_centre(source[i]["image"], size, crop)
                for i in range(len(source))
            ]
        )
        seen = (images / 255 - parts.pre.mean) / parts.pre.std
        logits = np.asarray(parts.model.apply(variables, seen.astype(np.float32)))
        power = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        found.append(power / power.sum(-1, keepdims=True))
    return found


def test_the_page_is_whole_and_asks_for_nothing(classified, parsed):
    check_page(parsed)
    assert classified["path"].stat().st_size < frame.LIMIT
    headings = "".join(parsed.texts["h2"])
    for word in ("Against", "Learning", "Classes", "Confusion", "Gallery", "Images"):
        assert word in headings
    for word in ("Boundaries", "Object sizes"):
        assert word not in headings


def test_the_scores_are_those_of_evaluate(networks, classified, text):
    for (parts, variables), summary in zip(
        networks, classified["summaries"], strict=True
    ):
        source = setup.open_split(parts.config, "val")
        wanted, _ = evaluate_images(parts, parts.eval_step(), variables, source)
        wanted.pop("loss")
        assert summary == wanted
    ours = classified["summaries"][0]
    assert f"<dt>top-1</dt><dd>{100 * ours['top1']:.1f} %" in text
    table = cells(text, "classes")
    for name, accuracy in ours["accuracy_per_class"].items():
        assert table[name][0] == f"{100 * accuracy:.1f}"
    assert table["mean"][0] == f"{100 * ours['class_accuracy']:.1f}"


def test_pictures_hold_the_likeliest_classes_and_their_heat(
    networks, parsed, truths, chances
):
    pictures = parsed.data["pictures"]
    parts, variables = networks[0]
    source, localizer = (
        setup.open_split(parts.config, "val"),
        Localizer(parts, variables),
    )
    hot = 0
    for key, picture in pictures.items():
        i = int(key)
        assert picture["truth"] == truths[i]
        for rows, chance in zip(picture["best"], chances, strict=True):
            best = [k for k, _ in rows[:5]]
            assert best == np.argsort(-chance[i], kind="stable")[:5].tolist()
            for k, p in rows:
                assert p == pytest.approx(chance[i, k], abs=1e-3)
            assert truths[i] in [k for k, _ in rows] and len(rows) <= 6
        if not picture["heat"] or hot == 3:
            continue
        hot += 1
        _, classes, heat = localizer(source[i]["image"])
        names = [name for name, _ in picture["heat"]]
        assert names[0] == str(classes[0])
        assert set(names[1:]) <= {str(truths[i])} and len(names) <= 2
        raw = zlib.decompress(base64.b64decode(picture["heat"][0][1]))
        shown = np.frombuffer(raw, np.uint8).reshape(picture["size"])
        np.testing.assert_allclose(shown, 255 * heat[0], atol=1.01)
    assert hot == 3


def test_galleries_and_examples_are_the_most_wrong(parsed, truths, chances):
    chance, rows = chances[0], np.arange(len(truths))
    guess, of_truth = chance.argmax(-1), chance[rows, truths]
    kinds = classification.groups(Guesses.of(truths, chance))
    wrong = np.flatnonzero(guess != truths)
    assert of_truth[kinds["wrong"]].tolist() == sorted(of_truth[wrong])[:12]
    right = of_truth[guess == truths]
    assert of_truth[kinds["unsure"]].tolist() == sorted(right)[: len(kinds["unsure"])]
    assert of_truth[kinds["sure"]].tolist() == sorted(right)[::-1][: len(kinds["sure"])]
    assert not set(kinds["unsure"]) & set(kinds["sure"])
    examples = parsed.data["examples"]
    pairs = {(int(t), int(g)) for t, g in zip(truths, guess, strict=True) if t != g}
    assert {f"{t}-{g}" for t, g in pairs} == set(examples)
    for cell, found in examples.items():
        t, g = map(int, cell.split("-"))
        own = np.flatnonzero((truths == t) & (guess == g))
        order = own[np.argsort(-chance[own, g], kind="stable")][:EXAMPLES]
        assert [i for (i,) in found] == order.tolist()


def test_curves_are_the_lines_of_the_run(parsed):
    charts = parsed.data["charts"]
    assert [s["name"] for s in charts["curve-top1"]["series"]][:2] == ["train", "val"]
    assert charts["curve-top5"]["series"][1]["points"] == [[2, 40], [4, 80]]
    assert len(charts["curve-classes"]["series"]) == 10


def test_the_difference_is_that_of_the_runs(classified, text):
    ours, theirs = classified["summaries"]
    found = cells(text, "differences")
    assert found["top-1"][:2] == [f"{100 * run['top1']:.1f}" for run in (ours, theirs)]
    change = 100 * (ours["top1"] - theirs["top1"])
    assert float(found["top-1"][2].replace("−", "-")) == pytest.approx(change, abs=0.06)


def test_intervals_of_shares_are_wilsons():
    for hits, count in ((0, 7), (3, 7), (7, 7), (412, 1000)):
        found = guesses.share(hits, count)
        wanted = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert found.value == hits / count
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert np.isnan(guesses.share(0, 0).value)


def test_intervals_of_differences_are_those_of_redrawn_images():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    ours, theirs = (
        Guesses.of(truth, rng.dirichlet(np.ones(4), 200) + bonus * np.eye(4)[truth])
        for bonus in (0.4, 0.1)
    )
    change = ours.right.astype(int) - theirs.right
    for k, found in enumerate(guesses.differences(ours, theirs)):
        own = change if k == 4 else change[truth == k]
        if not own.size:
            assert k == 3 and np.isnan(found.value)
            continue
        drawn = own[rng.integers(0, own.size, (20000, own.size))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        assert found.value == own.mean()
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.side == 1


def test_calibration_counts_images():
    chance = np.array([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55], [1.0, 0.0]])
    found = Guesses.of(np.array([0, 1, 1, 0]), chance)
    # |1 - .9|, |0 - .6|, |1 - .55|, |1 - 1|, each bin holding one image.
    assert found.calibration_error() == pytest.approx((0.1 + 0.6 + 0.45) / 4)
    assert found.calibration[0].sum() == 4


def test_runs_of_two_tasks_are_not_compared(classifiers, runs, tmp_path):
    with pytest.raises(ValueError, match="is a run of segmentation, the first one of"):
        report(classifiers[0], against=runs[0], output=tmp_path / "r.html")
