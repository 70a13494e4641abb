"""The page: whole, valid, asking for nothing, and saying what the predictions say."""

import base64
import io
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from segjax import config as configs
from segjax import inference, setup
from segjax.batch import LabelSpec
from segjax.evaluate import evaluate_split
from segjax.main import main
from segjax.metrics import Tally, summarize
from segjax.report import album, frame, page, report
from segjax.report.account import Account, Truth, small_size
from segjax.report.sections import Subject
from tests.report.conftest import EXAMPLES, SIZE, config_of, lines_of

VOID = {"meta", "link", "img", "input", "br", "line", "circle", "rect", "polyline"}


class Page(HTMLParser):
    """Elements with their attributes, what is open, and the texts of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict:
        return json.loads(self.texts["script"][0])


@pytest.fixture(scope="module")
def text(reported):
    return reported["path"].read_text()


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


@pytest.fixture(scope="module")
def predicted(runs):
    """Of both runs: the summary and every prediction, as ``evaluate`` finds them."""
    found = []
    for workdir in runs:
        parts = setup.load_parts(workdir, ["--config.eval.batch_size=8"])
        variables, _ = setup.restore_variables(parts, workdir, "best")
        source = setup.open_split(parts.config, "val")
        everything = range(len(source))
        found.append(
            evaluate_split(parts, parts.eval_step(), variables, source, show=everything)
        )
    return found


def check_page(parsed: Page) -> None:
    """Well-formed, accessible as far as a parser can tell, and without a request."""
    assert parsed.open == []
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        assert not any(key.startswith("on") for key in attributes)
    assert not {"iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in parsed.elements
    }
    assert not re.search(
        r"https?:|url\(|@import|import\(",
        "".join([*parsed.texts["style"], *parsed.texts["script"][1:]]),
    )
    assert all(image.get("alt") for image in parsed.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in parsed.all("svg"))
    assert all(head.get("scope") in ("col", "row") for head in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) > 4
    assert "default-src 'none'" in "".join(
        a.get("content", "") for a in parsed.all("meta")
    )


def test_the_page_is_whole_and_asks_for_nothing(reported, parsed):
    check_page(parsed)
    assert reported["path"].stat().st_size < frame.LIMIT
    headings = "".join(parsed.texts["h2"])
    for word in (
        *("Against", "Learning curves", "Classes", "Confusion", "Gallery"),
        *("Boundaries", "Object sizes", "Calibration", "Images", "Config"),
        "Environment",
    ):
        assert word in headings


def test_the_scores_are_those_of_evaluate(reported, predicted, text):
    for summary, (wanted, _) in zip(reported["summaries"], predicted, strict=True):
        for key in ("miou", "pixel_accuracy", "iou_per_class", "pixels"):
            assert summary[key] == wanted[key]
    score = 100 * predicted[0][0]["miou"]
    assert f"<dt>mIoU</dt><dd>{score:.1f} %" in text


def cells(text: str, table: str) -> dict[str, list[str]]:
    """Heading of a row -> the texts of its cells, tags left out."""
    (body,) = re.findall(rf'id="table-{table}".*?</table>', text, re.S)
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', body, re.S)
    bare = [(re.sub("<.*?>", "", head), row) for head, row in rows]
    return {
        head: [re.sub("<.*?>", "", c) for c in re.findall(r"<td.*?>(.*?)</td>", row)]
        for head, row in bare
    }


def test_boundaries_and_sizes_are_those_of_the_predicted_maps(
    reported, predicted, text
):
    """As evaluate's own sums have them, from the maps that it predicts."""
    source = setup.open_split(config_of(), "val")
    names, wanted = source.spec.names, []
    for _, shown in predicted:
        tally = Tally(len(names), EXAMPLES)
        for i in range(EXAMPLES):
            tally.add_image(i, source[i]["label"], shown[i])
        wanted.append(tally.summarize(names, source.ids()))

    def percent(value):
        return "–" if value is None else f"{100 * value:.1f}"

    for found, summary in zip(reported["summaries"], wanted, strict=True):
        for key in ("boundary_f1", "boundary_iou", "miou_by_size", "recall_by_size"):
            assert found[key] == summary[key]
    ours, theirs = wanted
    assert f"<dt>boundary F1</dt><dd>{percent(ours['boundary_f1'])} %" in text
    of_classes, of_sizes = cells(text, "classes"), cells(text, "sizes")
    assert of_classes["mean"][5:7] == [
        *(percent(ours["boundary_iou"]), percent(ours["boundary_f1"])),
    ]
    for name in names:
        assert of_classes[name][5:7] == [
            percent(ours["boundary_iou_per_class"][name]),
            percent(ours["boundary_f1_per_class"][name]),
        ]
        assert of_sizes[name] == [
            percent(run["iou_by_size_per_class"][size][name])
            for size in ("small", "medium", "large")
            for run in (ours, theirs)
        ]
    assert of_sizes["mean"][:2] == [
        percent(run["miou_by_size"]["small"]) for run in wanted
    ]
    counts = ours["objects_by_size"]
    assert counts["small"] and f"that is found: {counts['small']:,} small (" in text


def unpack(data: str, size) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(data))
    return np.frombuffer(raw, np.uint8).reshape(size)


def test_pictures_hold_image_truth_and_both_predictions(parsed, predicted, runs):
    source = setup.open_split(config_of(), "val")
    pictures = parsed.data["pictures"]
    assert len(pictures) == EXAMPLES  # fewer than fit
    for key, picture in pictures.items():
        example = source[int(key)]
        assert picture["id"] == example["id"] and picture["size"] == list(SIZE)
        np.testing.assert_array_equal(unpack(picture["truth"], SIZE), example["label"])
        for layer, (_, shown) in zip(picture["maps"], predicted, strict=True):
            np.testing.assert_array_equal(unpack(layer, SIZE), shown[int(key)])
        kind, data = picture["photo"].split(",")
        assert kind == "data:image/png;base64"  # small ones without loss
        photo = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(photo, example["image"])
    assert parsed.data["layers"] == ["this run", "other"]


def test_examples_of_a_confusion_are_the_images_with_most_of_it(parsed, predicted):
    source = setup.open_split(config_of(), "val")
    shown = predicted[0][1]
    examples = parsed.data["examples"]
    assert examples
    total = np.zeros((8, 8), int)
    for cell, found in examples.items():
        a, b = map(int, cell.split("-"))
        counts = [
            int(np.sum((source[i]["label"] == a) & (shown[i] == b)))
            for i in range(EXAMPLES)
        ]
        total[a, b] = sum(counts)
        assert [n for _, n in found] == sorted(filter(None, counts))[::-1][: len(found)]
        assert all(counts[i] == n for i, n in found)
    for i in range(EXAMPLES):
        label = source[i]["label"]
        valid = (label < 8) & (label != shown[i])
        np.subtract.at(total, (label[valid], shown[i][valid]), 1)
    assert (total == 0).all()  # every confusion has its examples


def test_curves_are_the_lines_of_the_run(parsed):
    charts = parsed.data["charts"]
    train, val, *_ = charts["curve-loss"]["series"]
    assert train["name"] == "train" and val["name"] == "val"
    assert train["points"] == [[1, 2], [2, 1], [3, 0.66667], [4, 0.5]]
    assert val["points"] == [[2, 1], [4, 0.5]]
    assert charts["curve-miou"]["series"][0]["points"][-1] == [4, 40]
    assert len(charts["curve-classes"]["series"]) == 7  # one class has no IoU
    assert [s["name"] for s in charts["curve-loss"]["series"]][2:] == [
        *("train, the other", "val, the other")
    ]


def test_the_difference_in_config_is_named(parsed, text):
    rows = re.search(r'id="table-config-differences".*?</table>', text, re.S)
    assert rows and re.findall(r"<tbody>.*", rows[0]) == [
        '<tbody><tr><th scope="row">seed</th><td>0</td><td>1</td></tr></tbody></table>'
    ]
    changed = re.findall(r'<tr class="changed"><th scope="row">([\w.]+)\*', text)
    assert set(changed) == {
        *("steps", "data.image_size", "data.shapes.val_examples"),
        *("model.encoder", "model.decoder"),
    }


def test_the_command_reports_one_run_into_its_folder(runs, capsys):
    assert main(["report", "--workdir", str(runs[1])]) == 0
    path = runs[1] / "report_val.html"
    assert str(path) in capsys.readouterr().out
    parsed = Page(path.read_text())
    check_page(parsed)
    assert parsed.data["layers"] == ["prediction"]
    assert "Against" not in "".join(parsed.texts["h2"])


def test_mistakes_are_told_in_one_line(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match="no config.json; is it a run's folder"):
        report(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    labels = json.loads((runs[0] / "labels.json").read_text())
    labels["names"][0] = "something"
    (other / "labels.json").write_text(json.dumps(labels))
    (other / "config.json").write_text((runs[0] / "config.json").read_text())
    (other / "checkpoints").symlink_to(runs[0] / "checkpoints")
    with pytest.raises(ValueError, match="are not those of .*other"):
        report(runs[0], against=other)
    assert main(["report", "--workdir", str(runs[0]), "--split", "tset"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def content_of(names, count: int, size: tuple[int, int], lines=()) -> frame.Content:
    """A run that was never made, with these class names."""
    classes = len(names)
    spec = LabelSpec(tuple(names), tuple((k % 256, 9, 9) for k in range(classes)))
    rng = np.random.default_rng(0)
    account, truths, examples = Account(classes), [], []
    for i in range(count):
        label = rng.integers(0, classes, size).astype(np.uint8)
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        guess = rng.integers(0, classes, size).astype(np.uint8)
        examples.append({"image": image, "label": label, "id": f"<i>{i}</i>&"})
        truth = Truth.of(label)
        account.add(truth, guess, np.full(size, 0.5, np.float32))
        truths.append(truth.packed())

    class Examples:
        channels = 3

        def __len__(self):
            return count

        def __getitem__(self, index):
            return examples[index]

        def size(self, index):
            return size

        def ids(self):
            return [example["id"] for example in examples]

    subject = Subject(
        "<run>",
        configs.default(),
        spec,
        1,
        10,
        account,
        account.summarize(spec.names),
        lines,
    )
    return frame.Content(
        subject, None, "val", Examples().ids(), truths, Examples(), "segjax", {}
    )


def test_names_are_text_whatever_they_hold():
    names = ("</script><script>alert(1)</script>", '"<b>&', "plain")
    content = content_of(names, 4, (6, 8), lines_of(names))
    parsed = Page(page.render(content))
    check_page(parsed)
    assert len(parsed.all("script")) == 2 and not parsed.all("i ")
    assert parsed.data["names"] == list(names)
    assert {"<i>0</i>&"} <= {p["id"] for p in parsed.data["pictures"].values()}


def test_pictures_stop_where_the_page_would_grow_too_large(monkeypatch):
    content = content_of(("a", "b"), 12, (64, 64))
    whole = Page(page.render(content)).data["pictures"]
    assert len(whole) == 12
    one = len(json.dumps(next(iter(whole.values()))))
    monkeypatch.setattr(frame, "LIMIT", frame.ROOM + 5 * one)
    fewer = Page(page.render(content)).data["pictures"]
    # The first of each kind are in: worst, median, best.
    assert 3 <= len(fewer) <= 5
    scores, _ = content.ours.account.image_scores()
    assert {str(scores.argmin()), str(scores.argmax())} <= set(fewer)
    monkeypatch.setattr(frame, "LIMIT", 9)
    with pytest.raises(ValueError, match="more than 9; choose a --split"):
        page.render(content)


def test_many_classes_are_added_up_and_no_lines_are_no_error():
    content = content_of([f"c{k}" for k in range(40)], 3, (30, 30))
    text = page.render(content)
    check_page(Page(text))
    assert "The 30 classes with the most wrong pixels of 40" in text
    assert text.count('<th scope="col"><span>others') == 1
    assert "no metrics.jsonl" in text
    # The numbers of a row add up to 100 %, others included.
    matrix = content.ours.account.confusion.matrix
    assert len(re.findall(r'class="hit"', text)) == 30
    assert summarize(matrix, content.ours.spec.names)["pixels"] == 3 * 900


def test_ranks_do_not_overlap():
    scores = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7, 0.2])
    assert album.ranked(scores, 2) == {
        "worst": [2, 6],
        "median": [4, 0],
        "best": [3, 5],
    }
    assert album.ranked(scores, 1) == {"worst": [2], "median": [4], "best": [3]}
    assert album.ranked(np.array([0.5, 0.1]), 6) == {
        "worst": [1],
        "median": [],
        "best": [0],
    }
    assert album.ranked(np.array([np.nan])) == {"worst": [], "median": [], "best": []}
    changes = album.extremes(np.array([0.1, -0.2, 0.0, np.nan, 0.3]), 6)
    assert changes == {"lost": [1], "gained": [4, 0]}


def test_photographs_are_small_and_true():
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 60000, 900 * 700).reshape(900, 700, 1).astype(np.uint16)
    kind, data = album.photograph(smooth).split(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (
        kind == "data:image/jpeg;base64" and shown.size == small_size((900, 700))[::-1]
    )
    wanted = inference.display_image(smooth)
    near = np.asarray(Image.fromarray(wanted).resize(shown.size, Image.Resampling.BOX))
    assert np.abs(np.asarray(shown).astype(int) - near).mean() < 3
    tiny = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    data = album.photograph(tiny).split(",")[1]
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(shown), tiny[..., :3])
