"""The report's page in a real browser with the network refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bench_rows
from attnscope.bench.report import report_text

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def test_the_page_opens_offline_and_fits_a_desk_and_a_phone(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file = tmp_path / "bench.html"
    file.write_text(report_text(bench_rows.bench(subjects=bench_rows.SUBJECTS[:3], layers=(1,)), "html"))
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800})
            asked: list[str] = []
            said: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.goto(file.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("svg[role=img]").count() == 2
            assert page.locator("text=attnscope bench run --case").first.is_visible()
            links = page.eval_on_selector_all("nav a", "all => all.map(each => each.getAttribute('href'))")
            assert all(page.locator(link).count() == 1 for link in links)
            assert asked == [file.as_uri()]
            assert said == []
        browser.close()
