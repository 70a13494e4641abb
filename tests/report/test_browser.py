"""The page in a real browser: it draws, its controls act, nothing spills over.

    apt-get install chromium; pip install -e '.[test,browser]'

Without these it skips; ``SEGJAX_REQUIRE=browser`` forbids that.
"""

import base64
import json
import zlib
from contextlib import contextmanager

import numpy as np
import pytest

from tests.report.conftest import EXAMPLES
from tests.requirements import require_browser


@pytest.fixture(scope="module")
def browser():
    playwright, path = require_browser()
    with playwright.sync_playwright() as running:
        # Playwright's own download of a browser is not wanted: Debian's will do.
        chromium = running.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


WIDTHS = [(1440, "light"), (390, "dark")]


@contextmanager
def visit(browser, path, width, scheme):
    """The page, ready; whatever the browser complains about fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    assert complaints == []
    others = [r for r in requests if not r.startswith(("data:", "file:", "blob:"))]
    assert others == [] and sum(r.startswith("file:") for r in requests) == 1
    context.close()


# Opened once for all tests: each leaves the page as the others want it.
@pytest.fixture(scope="module", params=WIDTHS, ids=["wide", "narrow"])
def opened(browser, reported, request):
    with visit(browser, reported["path"], *request.param) as page:
        yield page


@pytest.fixture(scope="module", params=WIDTHS, ids=["wide", "narrow"])
def classifier(browser, classified, request):
    with visit(browser, classified["path"], *request.param) as page:
        yield page


def column(page, table: str, number: int) -> list[str]:
    cells = page.locator(f"#table-{table} tbody tr > :nth-child({number})")
    return cells.all_text_contents()


# On a copy that says it will be read: Chromium warns of reading the page's own.
READ = """c => {
  const copy = new OffscreenCanvas(c.width, c.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(c, 0, 0);
  return [...context.getImageData(0, 0, c.width, c.height).data];
}"""


def pixels(figure) -> list[int]:
    """The canvas of a picture, as drawn."""
    return figure.locator("canvas").evaluate(READ)


def test_nothing_is_wider_than_the_page(opened):
    wide = opened.evaluate("document.documentElement.scrollWidth")
    assert wide == opened.viewport_size["width"]
    # Nor after everything that opens is open.
    opened.locator("[data-cell]").first.click()
    opened.locator("#examples figure").first.wait_for()
    opened.locator("[data-image]").first.click()
    opened.locator("#image figure").wait_for()
    opened.locator("#changed-only").uncheck()
    assert opened.evaluate("document.documentElement.scrollWidth") == wide
    assert opened.locator("#examples").bounding_box()["width"] < wide
    opened.locator("#changed-only").check()


def test_the_slider_wipes_by_mouse_keys_and_words(opened):
    figure = opened.locator("section:has(#gallery) figure").first
    slider = figure.locator("input")
    figure.get_by_role("button", name="image").click()
    assert slider.input_value() == "0" and not any(pixels(figure)[3::4])
    figure.get_by_role("button", name="truth").click()
    truth = pixels(figure)
    assert slider.input_value() == "100" and all(truth[3::4])
    slider.focus()
    for _ in range(10):
        slider.press("ArrowLeft")
    # Half way: the truth on the left of the picture, the image on the right.
    assert slider.input_value() == "50"
    assert "truth left of 50 %" in slider.get_attribute("aria-valuetext")
    width, height = figure.locator("canvas").evaluate("c => [c.width, c.height]")
    shown = pixels(figure)[3::4]
    for y in range(height):
        row = shown[y * width : (y + 1) * width]
        assert all(row[: width // 2]) and not any(row[width // 2 :])
    box = slider.bounding_box()
    opened.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert slider.get_attribute("aria-valuetext") == "errors"
    assert pixels(figure) != truth
    opened.locator("#cover").fill("100")
    figure.get_by_role("button", name="truth").click()
    assert set(pixels(figure)[3::4]) == {255}


def test_pointing_at_a_picture_names_the_classes(opened):
    figure = opened.locator("section:has(#gallery) figure").first
    assert figure.locator("output").text_content() == "56 x 40 px"
    figure.locator(".stage").hover()
    said = figure.locator("output").text_content()
    assert said.startswith("truth: ") and "this run: " in said and "other: " in said


def test_tables_sort_both_ways_and_by_name(opened):
    def numbers():
        return [
            float(x.replace("−", "-")) for x in column(opened, "classes", 2) if x != "–"
        ]

    before = numbers()
    head = opened.locator("#table-classes thead button").nth(1)
    head.click()
    assert numbers() == sorted(before, reverse=True)
    assert opened.locator("#table-classes th").nth(1).get_attribute("aria-sort") == (
        "descending"
    )
    head.press("Enter")
    assert numbers() == sorted(before)
    opened.locator("#table-classes thead button").first.click()
    names = column(opened, "classes", 1)
    assert names == sorted(names) and len(names) == 8
    opened.locator("#table-images thead button").nth(5).click()
    changes = [float(x.replace("−", "-")) for x in column(opened, "images", 6)]
    assert changes == sorted(changes, reverse=True) and len(changes) == EXAMPLES


def test_a_click_on_a_confusion_shows_its_examples(opened):
    cell = opened.locator("[data-cell]").first
    truth, guess = cell.get_attribute("aria-label").split(":")[0].split(" taken for ")
    cell.click()
    panel = opened.locator("#examples")
    figures = panel.locator("figure")
    figures.first.wait_for()
    assert panel.locator("h3").text_content() == f"{truth} taken for {guess}"
    assert 1 <= figures.count() <= 4
    assert cell.get_attribute("aria-pressed") == "true"
    # As many pixels are marked as the caption says; nothing was made smaller here.
    told = int(figures.first.locator("figcaption").text_content().split()[1])
    drawn = pixels(figures.first)
    marked = sum(drawn[i] > 200 > drawn[i + 1] for i in range(0, len(drawn), 4))
    assert told == marked > 0
    panel.locator(".close").click()
    assert panel.is_hidden()
    focused = opened.evaluate("document.activeElement.dataset.cell")
    assert focused == cell.get_attribute("data-cell")


def test_charts_tell_the_values_under_the_pointer_and_the_keys(opened):
    figure = opened.locator("[data-chart=curve-loss]")
    svg, tip = figure.locator("svg"), figure.locator(".tip")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    assert tip.is_hidden()
    opened.mouse.move(box["x"] + box["width"] - 14, box["y"] + 40)
    assert tip.text_content().startswith("step 4") and "train 0.5" in tip.text_content()
    svg.focus()
    svg.press("Home")
    assert tip.text_content().startswith("step 1train 2")
    svg.press("ArrowRight")
    assert "val 1" in tip.text_content()
    svg.evaluate("e => e.blur()")
    assert tip.is_hidden()
    cloud = opened.locator("[data-chart=paired]")
    cloud.locator("svg").focus()
    cloud.locator("svg").press("End")
    assert "the other" in cloud.locator(".tip").text_content()


def test_only_the_changed_knobs_are_shown_until_asked(opened):
    rows = opened.locator("#table-config tbody tr:visible")
    few = rows.count()
    assert few == 5 and opened.locator("#table-config thead").is_visible()
    opened.locator("#changed-only").uncheck()
    assert rows.count() > 100
    opened.locator("#changed-only").check()


def test_images_of_the_table_open(opened):
    opened.locator("[data-image]").nth(2).click()
    panel = opened.locator("#image")
    panel.locator("figure").wait_for()
    assert panel.locator("figcaption b").text_content() == (
        opened.locator("[data-image]").nth(2).text_content()
    )


def test_sizes_sort_by_iou(opened):
    opened.locator("#table-sizes thead button").nth(1).click()
    shown = [float(x) for x in column(opened, "sizes", 2) if x != "–"]
    assert shown and shown == sorted(shown, reverse=True)


def test_a_classifiers_page_wipes_to_heat_and_shows_bars(classifier):
    wide = classifier.viewport_size["width"]
    scroll = "document.documentElement.scrollWidth"
    assert classifier.evaluate(scroll) == wide
    figure = classifier.locator("section:has(#gallery) figure").first
    slider = figure.locator("input")
    assert slider.input_value() == "0" and not any(pixels(figure)[3::4])
    figure.locator(".stops button").nth(1).click()
    heat = pixels(figure)[3::4]
    assert slider.get_attribute("aria-valuetext").startswith("where ")
    # The map that the page holds, whose maximum is drawn at 72 %.
    data = json.loads(classifier.locator("#data").text_content())
    name = figure.locator("figcaption b").text_content()
    (picture,) = [p for p in data["pictures"].values() if p["id"] == name]
    packed = base64.b64decode(picture["heat"][0][1])
    drawn = 0.72 * np.frombuffer(zlib.decompress(packed), np.uint8)
    np.testing.assert_allclose(heat, drawn, atol=0.51)
    # Two runs, a list each; the true class stands in both, in bold.
    lists = figure.locator("ol.guesses")
    assert lists.count() == 2 and figure.locator("li.true").count() == 2
    weight = "e => getComputedStyle(e).fontWeight"
    assert figure.locator("li.true").first.evaluate(weight) == "700"
    said = figure.locator("figcaption").text_content()
    assert lists.first.locator("li span").first.text_content() == said.split()[-1]
    cell = classifier.locator("[data-cell]").first
    cell.click()
    panel = classifier.locator("#examples")
    panel.locator("figure").first.wait_for()
    truth, guess = cell.get_attribute("aria-label").split(":")[0].split(" taken for ")
    for text in panel.locator("figcaption").all_text_contents():
        assert text.endswith(f" {truth}, taken for {guess}")
    classifier.locator("[data-image]").first.click()
    classifier.locator("#image figure").wait_for()
    classifier.locator("#table-images thead button").nth(2).click()
    chances = [float(x) for x in column(classifier, "images", 3)]
    assert chances == sorted(chances, reverse=True) and len(chances) == 360
    assert classifier.evaluate(scroll) == wide
