"""Top-1, top-5 and the confusion matrix against NumPy's sort and count."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from segjax import logs
from segjax.batch import NO_CLASS
from segjax.top import Outcomes, count_hits, ranks


def examples(n=200, classes=300, seed=0):
    """Scores with many equal ones, and labels with 255 and NO_CLASS among them."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-9, 9, (n, classes)).astype(np.float32)
    label = rng.integers(0, classes, n).astype(np.int32)
    label[::7], label[3::11] = NO_CLASS, 255
    return logits, label


def sorted_places(logits, label):
    """The place of the true class in a stable sort, by definition."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    places = np.argmax(order == label[:, None], -1)
    return np.where(label == NO_CLASS, -1, places)


def test_ranks_are_the_places_in_a_stable_sort():
    logits, label = examples()
    found = np.asarray(ranks(jnp.asarray(logits), jnp.asarray(label)))
    want = sorted_places(logits, label)
    np.testing.assert_array_equal(found, want)
    counted = label != NO_CLASS
    first = logits.argmax(-1) == label
    np.testing.assert_array_equal(found[counted] == 0, first[counted])
    hits = count_hits(jnp.asarray(logits), None, jnp.asarray(label))["hits"]
    want = want[counted]
    np.testing.assert_array_equal(
        hits, [counted.sum(), (want == 0).sum(), (want < 5).sum()]
    )


def test_scores_that_are_no_numbers_are_no_hits():
    logits = jnp.asarray([[0.0, jnp.nan, 0.0], [jnp.nan] * 3, [1.0, 2.0, jnp.inf]])
    found = np.asarray(ranks(logits, jnp.asarray([0, 1, 2])))
    assert found[0] > 0 and found[1] > 0 and found[2] == 0


def test_outcomes_are_numpys_counts():
    logits, label = examples(classes=6, seed=1)
    label = np.where(label > 4, np.where(label == 255, 4, label % 3), label)
    prediction, rank = logits.argmax(-1), sorted_places(logits, label)
    outcomes = Outcomes(6)
    for rows in (slice(0, 37), slice(37, 150), slice(150, None)):
        outcomes.add(label[rows], prediction[rows], rank[rows])
    names = [f"class{k}" for k in range(6)]
    summary = outcomes.summarize(names)
    kept = label != NO_CLASS
    truth, guess = label[kept], prediction[kept]
    assert summary["images"] == kept.sum()
    assert summary["top1"] == (truth == guess).mean()
    order = np.argsort(-logits[kept], axis=-1, kind="stable")[:, :5]
    assert summary["top5"] == (order == truth[:, None]).any(-1).mean()
    for k, name in enumerate(names[:5]):
        assert summary["accuracy_per_class"][name] == (guess[truth == k] == k).mean()
        assert summary["share_per_class"][name] == (truth == k).mean()
        for j in range(6):
            count = ((truth == k) & (guess == j)).sum()
            assert summary["confusion"][k][j] == count
            if k != j and count > summary["most_confused"][-1][2]:
                assert [name, names[j], count] in summary["most_confused"]
    assert summary["accuracy_per_class"]["class5"] is None
    assert summary["absent_classes"] == ["class5"]
    counts = [count for *_, count in summary["most_confused"]]
    assert counts == sorted(counts, reverse=True) and len(counts) == 20


def test_nothing_to_count():
    summary = Outcomes(3).summarize("abc")
    assert summary["top1"] is summary["top5"] is summary["class_accuracy"] is None
    assert summary["images"] == 0 and summary["most_confused"] == []


@pytest.mark.parametrize("classes", [4, 1000])
def test_the_table_shows_every_class_or_the_worst(classes):
    outcomes = Outcomes(classes)
    label = np.arange(classes)
    wrong = np.where(label == 2, 3, label)
    outcomes.add(label, wrong, np.where(label == 2, 1, 0))
    names = [f"[{k}]" for k in range(classes)]
    summary = outcomes.summarize(names)
    assert ("confusion" in summary) == (classes == 4)
    text = io.StringIO()
    logs.class_table(summary, Console(file=text, width=120))
    said = text.getvalue()
    assert "[3] (1)" in said and "top-5 100.00 %" in said
    assert said.count("100.00 %") == (3 + 1 if classes == 4 else 19 + 1)
    assert ("of 1000 classes that do worst" in said) == (classes == 1000)
