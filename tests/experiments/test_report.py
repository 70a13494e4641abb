"""Tables, verdicts, figures and the index, of made-up runs."""

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from experiments import figures, report, scores, statistics, store, study
from experiments.analysis import analyse
from tests.experiments.made_up import NAMES, STUDY, add_run, counts_of, make_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(study, store) with all runs."""
    folder = tmp_path_factory.mktemp("study")
    made, kept = make_study(folder), store.Store(folder / "results" / "tiny")
    for run in made.runs:
        add_run(made, kept, *run)
    return made, kept


def test_the_analysis_is_that_of_the_matrices(finished):
    found = analyse(*finished, draws=50)
    parts = {
        v: np.stack([scores.reduce(counts_of(v, s)) for s in range(3)])
        for v in ("small", "large")
    }
    metric = scores.METRICS["miou"]
    wanted = statistics.compare(parts["large"], parts["small"], metric)
    large, same = found.pairs
    assert (large.first, large.second, large.seeds) == ("large", "small", (0, 1, 2))
    assert large.adjusted == 2 * wanted.p
    # Found in 80 % of studies by the adjusted p: two comparisons, so at 2.5 %.
    least = large.found.detectable
    assert large.found == dataclasses.replace(wanted, detectable=least)
    assert statistics.power(least, wanted.se, wanted.df, 0.025) == pytest.approx(0.8)
    assert large.sure and not same.sure
    values = tuple(metric(parts["large"].sum(1)))
    assert found.variants["large"].values == values
    assert found.variants["large"].spread == statistics.spread(values)
    assert found.variants["large"].cost["macs"] == 246_000_000


def test_the_verdict_says_what_is_known_and_what_is_not(finished):
    text = report.verdict(analyse(*finished))
    assert "Expected beforehand: It does, because the run is short." in text
    assert "**large is better than small** by 2" in text
    assert "**Cannot tell same from small**: " in text
    assert "A true difference of " in text and "Not finished" not in text


def test_a_worse_first_is_told_the_other_way_round(finished):
    found = analyse(*finished)
    pair = found.pairs[0]
    turned = dataclasses.replace(
        pair.found, effect=-0.05, low=-0.0625, high=-0.0375, p=1e-33
    )
    pair = dataclasses.replace(pair, found=turned, adjusted=1e-33)
    assert report.sentence(pair, "mIoU") == (
        "**small is better than large** by 5.0 points of mIoU, 95 % interval 3.8 to "
        "6.2, p < 0.001."
    )
    assert "e-33" not in report.results(dataclasses.replace(found, pairs=(pair,)))
    rare = dataclasses.replace(found.study, primary="iou(car, sky)")
    told = report.short(dataclasses.replace(found, study=rare))
    assert told.startswith("IoU of car, sky; large - small: ")


def test_the_cost_in_seconds_is_the_fastest_runs(tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    for seed, seconds in ((0, 90.0), (1, 450.0)):
        line = add_run(made, kept, "small", seed)
        kept.add({**line, "seconds": seconds}, kept.counts_path("small", seed))
    assert analyse(made, kept).variants["small"].cost["seconds"] == 90.0


def test_the_table_has_every_run_and_its_origin(finished):
    made, kept = finished
    found = analyse(made, kept)
    text = report.results(found)
    for variant in found.variants.values():
        assert " ".join(f"{100 * v:.1f}" for v in variant.values) in text
    assert "`python -m experiments.run experiments/tiny.py` at `0123456`" in text
    assert "2 threads of abacus" in text and "9 of 9 runs, 0.2 hours" in text
    assert "2026-11-25 to" not in text and "2026-11-25." in text
    assert "| `large` | `optim.lr=0.01` |" in text and "| 0.60 | 0.25 | 90 |" in text
    assert "| IoU | sky | road | car |" in text


def test_a_study_that_is_not_finished_says_so(tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    assert report.short(analyse(made, kept)) == "not run yet"
    add_run(made, kept, "small", 0)
    one = analyse(made, kept)
    assert not one.pairs and one.variants["small"].spread is None
    assert "**Not finished: 1 of 9 runs.**" in report.verdict(one)
    figures.draw(one, tmp_path)
    for variant in ("small", "large"):
        add_run(made, kept, variant, 1)
    add_run(made, kept, "large", 0)
    two = analyse(made, kept)
    assert [pair.seeds for pair in two.pairs] == [(0, 1)]
    assert report.short(two).startswith("4 of 9 runs; large - small: +")


def test_runs_on_other_images_are_not_compared(tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    add_run(made, kept, "small", 0)
    add_run(made, kept, "large", 0)
    path = kept.counts_path("large", 0)
    with np.load(path) as found:
        changed = {**found, "ids": found["ids"][::-1]}
    np.savez(path, **changed)
    with pytest.raises(ValueError, match="small-0 and large-0 were scored on differ"):
        analyse(made, kept)


def test_runs_on_other_labels_are_not_compared(tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    add_run(made, kept, "small", 0)
    add_run(made, kept, "large", 0)
    path = kept.counts_path("large", 0)
    with np.load(path) as found:
        changed = {**found, "counts": found["counts"][:, ::-1, ::-1]}
    np.savez(path, **changed)
    with pytest.raises(ValueError, match="different images or labels"):
        analyse(made, kept)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="large-0.npz is damaged"):
        analyse(made, kept)


def test_p_is_told_on_its_side_of_the_level():
    told = [report.small(p) for p in (0.04991, 0.04997, 0.0503, 0.0123, 0.0009)]
    assert told == ["0.0499", "0.04997", "0.05", "0.012", "<0.001"]
    assert report.commits({0: {"environment": {"git": None}}}) == "an unknown commit"


def test_of_many_commits_the_ends_are_told():
    def runs(*commits):
        git = [{"git": {"commit": c * 40, "dirty": c == "b"}} for c in commits]
        return {i: {"environment": one} for i, one in enumerate(git)}

    assert report.commits(runs("c", "b", "c")) == "`ccccccc`, `bbbbbbb+`"
    assert report.commits(runs(*"eadce")) == "`eeeeeee` to `ccccccc` (4 commits)"
    assert report.commits({}) == ""


def test_the_index_gets_one_row_per_study(finished, tmp_path):
    made, kept = finished
    readme = kept.folder.parents[1] / "README.md"
    other = "| Other? | [other](other.py) | told | `abc` |\n"
    readme.write_text(f"# Studies\n\n{report.HEADER}{other}\nafter\n")
    for _ in range(2):  # twice: the row is replaced
        report.write(made, kept, readme)
    head, row, last = readme.read_text().split("\n", 6)[4:]
    assert head + "\n" == other and last == "\nafter\n"
    assert row.startswith("| Does a larger step help? | [tiny](tiny.py) | [large - ")
    assert row.endswith("](results/tiny/verdict.md) | `0123456` |")
    with pytest.raises(ValueError, match="no table"):
        report.index([], "# Nothing")


def test_two_studies_at_once_both_get_their_rows(tmp_path, monkeypatch):
    readme, index = tmp_path / "README.md", report.index
    readme.write_text(report.HEADER)

    def slow(rows, text):
        time.sleep(0.2)  # between reading and writing
        return index(rows, text)

    def write(name):
        (tmp_path / f"{name}.py").write_text(STUDY)
        made = study.load(tmp_path / f"{name}.py")
        report.write(made, store.Store(tmp_path / "results" / name), readme)

    monkeypatch.setattr(report, "index", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("first", "second")))
    assert all(f"[{n}]({n}.py)" in readme.read_text() for n in ("first", "second"))


def test_figures_are_the_same_bytes_again(finished, tmp_path):
    found = analyse(*finished)
    paths = figures.draw(found, tmp_path)
    assert [p.name for p in paths] == [
        *("scores.svg", "scores.png", "cost.svg", "cost.png")
    ]
    before = [path.read_bytes() for path in paths]
    assert [p.read_bytes() for p in figures.draw(found, tmp_path)] == before
    picture = np.asarray(Image.open(tmp_path / "scores.png").convert("RGB"))
    # Every run is a grey dot, and the sure difference a blue one.
    for colour in (figures.GREY, figures.BLUE, figures.ORANGE):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture == rgb).all(-1).sum() > 5, colour
    assert "large" in paths[0].read_text() or len(before[0]) > 5000


def test_the_store_keeps_whole_lines_and_replaces(tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results")
    for _ in range(2):
        add_run(made, kept, "small", 0)
    line = add_run(made, kept, "large", 2)
    assert len(kept.path.read_text().splitlines()) == 2
    # A tuple is a list after JSON.
    assert kept.runs()["large", 2] == json.loads(json.dumps(line))
    found = kept.counts("large", 2)
    np.testing.assert_array_equal(found["counts"], counts_of("large", 2))
    assert tuple(found["names"]) == NAMES
    kept.counts_path("large", 2).unlink()
    with pytest.raises(ValueError, match="restore it or take the line out"):
        kept.counts("large", 2)
    kept.path.write_text(kept.path.read_text() + '{"study": \n')
    with pytest.raises(ValueError, match=r"runs\.jsonl:3 is no run's line"):
        kept.runs()


def test_a_write_that_is_cut_short_leaves_what_was(tmp_path, monkeypatch):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results")
    add_run(made, kept, "small", 0)
    before = kept.path.read_bytes()
    into_place = store._into_place

    def killed(temporary, target):
        if target == kept.path:
            temporary.write_bytes(temporary.read_bytes()[:100])
            raise KeyboardInterrupt
        into_place(temporary, target)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_into_place", killed)
        with pytest.raises(KeyboardInterrupt):
            add_run(made, kept, "large", 0)
    assert kept.path.read_bytes() == before and [*kept.runs()] == [("small", 0)]
    add_run(made, kept, "large", 0)
    assert [*kept.runs()] == [("small", 0), ("large", 0)]


def test_the_readme_tells_of_the_finished_studies(finished):
    made, kept = finished
    around = f"before\n{report.BEGIN}old\n{report.END}after\n"
    told = report.short(analyse(made, kept))
    rows = [(made, told, "`0123456`")]
    index = report.index(rows, report.HEADER)
    text = report.readme(index, around)
    assert text.startswith(f"before\n{report.BEGIN}\n| question |")
    assert text.endswith(f"\n\n{report.END}after\n") and "old" not in text
    command = "`python -m experiments.run experiments/tiny.py`"
    assert (
        f"| Does a larger step help? | [{told}](experiments/results/tiny/verdict.md) | "
        f"{command} | `0123456` |\n"
    ) in text
    for other in (f"3 of 9 runs; {told}", "not run yet"):
        rows = [(made, other, "`0123456`" if "of" in other else "")]
        unfinished = report.readme(report.index(rows, report.HEADER), text)
        assert f"{report.BEGIN}\nNo study is finished yet.\n\n" in unfinished
    with pytest.raises(ValueError, match="lacks the line <!-- Of"):
        report.readme(index, "# Nothing")


def test_the_readme_is_what_the_index_says():
    text = report.README.read_text()
    assert report.readme(report.INDEX.read_text(), text) == text


def test_the_table_says_which_runs_came_out_again(finished, tmp_path):
    made, kept = make_study(tmp_path), store.Store(tmp_path / "results" / "tiny")
    line = add_run(made, kept, "small", 0)
    assert "Run again" not in report.results(analyse(made, kept))
    check = {"variant": "small", "seed": 0, "same": False, "when": "2026-11-26T01:00Z"}
    kept.add_check(check | {"finished": line["finished"]})
    text = report.results(analyse(made, kept))
    assert "Run again by `--check`: 1, not the same: small-0 (2026-11-26)." in text
    kept.add_check(check | {"same": True, "finished": line["finished"]})
    assert "1, every pixel the same (2" in report.results(analyse(made, kept))
    # Of a run that was made anew since then they say nothing.
    kept.add({**line, "finished": "2027-01-01T00:00:00Z"}, kept.counts_path("small", 0))
    assert "Run again" not in report.results(analyse(made, kept))
