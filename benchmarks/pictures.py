"""A picture of a page, where there is a Chromium to take one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["take"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(page: Path, image: Path, width: int, height: int, scale: float = 2) -> Path | None:
    """Write what a window of this size shows of the page, at so many pixels to one; None without a Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no Chromium to draw {page} with", file=sys.stderr)
        return None
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--force-device-scale-factor={scale}"]
    size, target = f"--window-size={width},{height}", f"--screenshot={image.resolve()}"
    command = [browser, *options, size, "--virtual-time-budget=5000", target, page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    return image
