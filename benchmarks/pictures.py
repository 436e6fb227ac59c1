"""A picture of a page, where there is a Chromium to take one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["take"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(page: Path, image: Path, size: tuple[int, int], scale: float = 2, view: str = "") -> Path | None:
    """Write what a window of this size shows of the page, at `scale` pixels to one; None without a Chromium.

    `view` is the fragment of an address, by which a report opens with other selectors and filters than its own.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no Chromium to draw {page} with", file=sys.stderr)
        return None
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--force-device-scale-factor={scale}"]
    width, height = size
    options += [f"--window-size={width},{height}", "--virtual-time-budget=5000", f"--screenshot={image.resolve()}"]
    command = [browser, *options, f"{page.resolve().as_uri()}#{view}"]
    subprocess.run(command, check=True, capture_output=True)
    return image
