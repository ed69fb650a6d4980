"""The page in a real browser with the network refused: it works from disk, by mouse and by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import diagnoses
from attnscope.findings import Diagnosis
from attnscope.pages.notebook import as_html
from attnscope.pages.page import report

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


class Visit:
    """A page opened from disk; everything else that it asks for is refused and remembered."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page = self.context.new_page()
        self.context.route("**/*", lambda route: self._answer(route, file.as_uri()))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.goto(file.as_uri())

    def _answer(self, route: Any, allowed: str) -> None:
        if route.request.url == allowed:
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def quiet(self) -> None:
        """Nothing was fetched, nothing went wrong, no policy was violated."""
        assert self.asked == []
        assert self.said == []


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    opened: list[Visit] = []

    def go(diagnosis: Diagnosis, **settings: Any) -> Visit:
        opened.append(Visit(browser, report(diagnosis, tmp_path / f"{len(opened)}.html"), **settings))
        return opened[-1]

    yield go
    for each in opened:
        each.context.close()


@pytest.mark.parametrize("name", ["faulty", "healthy", "hostile", "without_attention"])
def test_it_opens_from_disk_without_any_request(visit: Any, name: str) -> None:
    seen = visit(getattr(diagnoses, name)())
    assert seen.page.evaluate("document.documentElement.classList.contains('js')")
    assert seen.page.locator("h1").is_visible()
    seen.quiet()


def test_hostile_names_do_nothing(visit: Any) -> None:
    seen = visit(diagnoses.hostile())
    page = seen.page
    for cell in page.locator("table.map .c").all():
        cell.dispatch_event("click")
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    for option in page.locator("#colouring option").all():
        page.select_option("#colouring", option.get_attribute("value"))
    page.wait_for_timeout(50)
    assert page.title() != "stolen"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"
    seen.quiet()


def test_the_policy_stops_an_injected_script(visit: Any) -> None:
    seen = visit(diagnoses.faulty())
    stopped = seen.page.evaluate(
        """async () => {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            const image = new Image();
            const refused = new Promise((done) => {
              image.onerror = () => done(true); setTimeout(() => done(false), 800);
            });
            image.src = 'https://example.org/pixel.png';
            document.body.append(image);
            return [window.ran === undefined, await refused];
        }"""
    )
    assert stopped == [True, True]
    assert seen.asked == []  # the policy refused before the network was asked


def test_a_click_opens_the_card_of_a_place(visit: Any) -> None:
    seen = visit(diagnoses.faulty())
    page, card = seen.page, seen.page.locator("#card")
    assert not card.is_visible()
    page.click('.c[data-p="L3.mask"]')
    assert card.is_visible()
    text = card.inner_text()
    for expected in ("layer 3, mask", "MSK102", "reviews/model.py:62", "masked_fill(mask == 2", "0.43",
                     "Evidence against", "What would prove it wrong", "cheapest first"):
        assert expected in text, expected
    page.click('.c[data-p="L0H1"]')
    assert "Nothing was found here." in card.inner_text()
    assert "attention entropy" in card.inner_text()
    page.click('.c[data-p="L0.softmax"]')
    assert "What was read of the whole layer L0" in card.inner_text()
    assert "row sums" in card.inner_text()
    page.click('.c[data-p="L5"]')
    assert "Explained by" in card.inner_text()
    page.click('.c[data-p="classifier"]')
    assert "CRV602" in card.inner_text()
    page.click("#close")
    assert not card.is_visible()
    seen.quiet()


def test_a_place_in_the_text_leads_to_the_map(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    page.locator("#f1 .place").first.click()
    assert page.locator("#card-title").inner_text() == "layer 2, head 5"
    assert page.locator('.c[data-p="L2H5"]').get_attribute("aria-pressed") == "true"


def test_everything_works_by_keyboard(visit: Any) -> None:
    seen = visit(diagnoses.faulty())
    page = seen.page
    page.locator("#colouring").focus()
    page.keyboard.press("Tab")  # into the map: one stop, at the gravest place
    assert page.evaluate("document.activeElement.dataset.p") == "L2H5"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.p") == "L3H4"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.p") == "L3"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.p") == "L3.mlp"
    page.keyboard.press("PageUp")
    page.keyboard.press("PageDown")
    page.locator('.c[data-p="L3.mask"]').focus()
    page.keyboard.press("Enter")
    assert page.locator("#card").is_visible()
    assert page.evaluate("document.activeElement.id") == "card-title"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "close"
    page.keyboard.press("Escape")
    assert not page.locator("#card").is_visible()
    assert page.evaluate("document.activeElement.dataset.p") == "L3.mask"
    seen.quiet()


def test_moving_with_the_card_open_follows(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    page.click('.c[data-p="L1H1"]')
    page.keyboard.press("ArrowRight")
    assert page.locator("#card-title").inner_text() == "layer 1, head 2"
    assert "layer 1, head 2" in page.locator("#status").text_content()


def test_numbers_explain_themselves_on_hover_and_focus(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    number, tip = page.locator("#f0 .num").first, page.locator("#tip")
    number.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    number.hover()
    assert "padding mass" in tip.inner_text().lower()
    assert "Unit:" in tip.inner_text()
    assert number.get_attribute("aria-describedby") == "tip"
    page.mouse.move(5, 500)
    assert not tip.is_visible()
    page.locator("#f0 .place").first.focus()
    page.keyboard.press("Tab")
    assert tip.is_visible()
    assert "right on planted mistakes" in tip.inner_text()
    page.keyboard.press("Tab")
    assert "Unit:" in tip.inner_text()
    for each in page.locator("#findings .num").all():
        each.dispatch_event("pointerover")
        assert tip.is_visible()
        assert len(tip.inner_text()) > 20


def test_figures_say_the_number_under_the_pointer_and_under_the_keys(visit: Any) -> None:
    diagnosis = diagnoses.faulty()
    page = visit(diagnosis).page
    figure = page.locator("#r0 svg.hit")
    figure.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    value = diagnosis.readings["attention_entropy"].at(layer=1, head=2)
    assert page.locator("#tip").inner_text().splitlines() == ["layer 1, head 2", f"{value:.3g} nats"]
    figure.hover(position={"x": 120, "y": 60})
    assert page.locator("#tip").inner_text().startswith("layer")
    block = page.locator("svg.hit").nth(4)
    block.focus()
    page.keyboard.press("ArrowDown")
    page.locator("#tip").wait_for(state="visible", timeout=10_000)


def test_reordered_matrices_still_say_the_right_number(visit: Any) -> None:
    diagnosis = diagnoses.faulty()
    page = visit(diagnosis).page
    number = list(diagnosis.readings).index("block_coupling")
    page.click(f'label[for="o{number}-2"]')
    figure = page.locator(f"#r{number} svg.hit").nth(1)
    assert figure.is_visible()
    figure.focus()
    page.keyboard.press("ArrowDown")
    names, value = page.locator("#tip").inner_text().splitlines()
    row, column = names.split(", ")
    expected = diagnosis.readings["block_coupling"].at(block=row, block_b=column)
    assert float(value) == pytest.approx(expected, rel=0.01)


def test_tables_hold_every_number(visit: Any) -> None:
    diagnosis = diagnoses.faulty()
    page = visit(diagnosis).page
    for number, reading in enumerate(diagnosis.readings.values()):
        details = page.locator(f"#r{number} details.table")
        if details.count():
            details.locator("summary").click()
            details.locator("td").first.wait_for(state="attached")
            assert details.locator("td").count() == reading.values.size, reading.lens
    first = page.locator("#r0 td").first.inner_text()
    assert float(first) == pytest.approx(float(diagnosis.readings["attention_entropy"].values[0, 0]), rel=0.01)


def test_the_map_can_be_coloured_by_a_reading(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    page.select_option("#colouring", label="padding mass")
    assert page.locator("#scale").is_visible()
    assert "q0" in page.locator('.c[data-p="L0H0"]').get_attribute("class")
    assert "q0" not in page.locator('.c[data-p="L3H0"]').get_attribute("class")
    page.select_option("#colouring", "")
    assert page.locator("#legend").is_visible()
    assert " q0" not in page.locator('.c[data-p="L0H0"]').get_attribute("class")


def test_anatomy_rows_unfold(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    assert not page.locator("#a3").is_visible()
    page.click('.expand[aria-controls="a3"]')
    assert "scores.masked_fill" in page.locator("#a3").inner_text()
    assert page.locator('.expand[aria-controls="a3"]').get_attribute("aria-expanded") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(visit: Any, scheme: str) -> None:
    seen = visit(diagnoses.faulty(), color_scheme=scheme)
    page = seen.page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 380) == (scheme == "light")
    low = page.evaluate(CONTRAST)
    assert low == [], low
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    assert page.evaluate(CONTRAST) == []
    seen.quiet()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => {
    const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
  const ground = (element) => { for (let e = element; e; e = e.parentElement) {
    const style = getComputedStyle(e); const colour = rgba(style.backgroundColor);
    if (style.backgroundImage !== 'none') return null;
    if (colour[3] > 250) return colour; } return [255, 255, 255, 255]; };
  const found = [];
  for (const element of document.querySelectorAll('main *, header.bar *, footer *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest('svg, [hidden], .sr, noscript') || !element.checkVisibility()) continue;
    const under = ground(element); if (!under) continue;
    const a = light(rgba(getComputedStyle(element).color)), b = light(under);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const said = element.textContent.trim().slice(0, 30);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)} ${said}`);
  }
  return [...new Set(found)].slice(0, 12);
}"""


def test_every_control_has_a_name_and_headings_do_not_jump(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, select, input, svg[tabindex]')].filter((element) =>
          !(element.getAttribute('aria-label') || element.textContent.trim() || element.labels?.length)).length"""
    )
    assert nameless == 0
    levels = page.evaluate(
        """[...document.querySelectorAll('main h1, main h2, main h3, main h4')]
             .filter((heading) => heading.checkVisibility()).map((heading) => Number(heading.tagName[1]))"""
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_no_width_scrolls_sideways(visit: Any, width: int) -> None:
    for diagnosis in (diagnoses.faulty(), diagnoses.hostile()):
        page = visit(diagnosis, viewport={"width": width, "height": 800}).page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("table.map .c").nth(20).dispatch_event("click")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_light_and_without_controls(visit: Any) -> None:
    page = visit(diagnoses.faulty(), color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in (".bar", ".select", ".copy", "details.table"):
        assert not page.locator(hidden).first.is_visible()
    assert page.locator("table.map").is_visible()
    assert len(page.pdf(format="A4", print_background=True)) > 20_000


def test_without_scripts_everything_is_still_there(visit: Any) -> None:
    seen = visit(diagnoses.faulty(), java_script_enabled=False)
    text = seen.page.locator("main").inner_text()
    for expected in ("Scripts are off", "MSK102", "What would prove it wrong", "scores.masked_fill"):
        assert expected in text
    assert seen.asked == []


def test_shape_says_the_same_as_colour(visit: Any) -> None:
    page = visit(diagnoses.faulty()).page
    shapes = {
        state: page.locator(f"table.map .c.{state} use").first.get_attribute("href")
        for state in ("error", "warning", "note", "effect")
    }
    assert len(set(shapes.values())) == 4
    assert page.locator("table.map .c.clear use").count() == 0


def test_a_large_page_answers_quickly(visit: Any) -> None:
    seen = visit(diagnoses.faulty(24, 16))
    took = seen.page.evaluate(
        """() => { const begun = performance.now();
          document.querySelector('.c[data-p="L9H9"]').click(); return performance.now() - begun; }"""
    )
    assert took < 400
    seen.quiet()


def test_the_notebook_form_needs_no_script(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{as_html(diagnoses.hostile())}</body>", encoding="utf-8")
    seen = Visit(browser, file)
    assert seen.page.locator("svg rect").count() > 20
    assert seen.page.locator("script, img").count() == 0
    seen.quiet()
    seen.context.close()
