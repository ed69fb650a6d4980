"""SVG files to PNG, by a browser that the machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
SCALE = 2


def browser() -> str | None:
    """A Chromium on the path; None when there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def to_png(svg: Path, program: str) -> Path | None:
    """Draws an SVG file as a PNG beside it, at twice its size.

    Args:
        svg: with a width and a height.
        program: the browser.

    Returns:
        the PNG; None when the browser did not make one.
    """
    head = svg.read_text(encoding="utf-8")[:2000]
    size = [float(number) for number in re.findall(r'(?:width|height)="([\d.]+)"', head)[:2]]
    target = svg.with_suffix(".png")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
            f"--force-device-scale-factor={SCALE}", f"--window-size={round(size[0])},{round(size[1])}",
            f"--screenshot={target.resolve()}", svg.resolve().as_uri(),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (subprocess.SubprocessError, OSError):
            return None
    return target if target.exists() else None
