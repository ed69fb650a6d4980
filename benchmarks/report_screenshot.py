"""The picture of the report in the README: `python benchmarks/report_screenshot.py attnscope-demo/sabotaged.json`.

Draws a saved diagnosis, opens it in chromium with the network refused, opens the card of the first finding.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from attnscope.findings import Diagnosis
from attnscope.formats.model_map import home
from attnscope.pages.page import report


def picture(diagnosis: Diagnosis, target: Path, scheme: str) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = report(diagnosis, Path(folder) / "report.html")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, device_scale_factor=1.5, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.goto(page_file.as_uri())
        if diagnosis.findings:
            place = home(diagnosis.findings[0].block_or_site)[0]
            page.locator(f"table.map [data-p='{place}']").click()
            page.mouse.move(5, 5)
        page.screenshot(path=target)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("diagnosis", type=Path, help="such as attnscope-demo/sabotaged.json")
    parser.add_argument("--output", type=Path, default=Path("docs/images/report.png"))
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    picture(Diagnosis.open(given.diagnosis), given.output, given.scheme)
    print(f"{given.output}: {given.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
