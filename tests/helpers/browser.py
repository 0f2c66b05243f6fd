"""Debian's Chromium for tests of pages, and findings of axe about a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1100,900",
)
SCRIPT_SECONDS = 40


@contextmanager
def open_browser(profile: Path, downloads: Path | None = None) -> Iterator[Any]:
    """A browser with a fake microphone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads or profile)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(SCRIPT_SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def serious_findings(browser: Any) -> list[str]:
    """What axe calls serious or critical in the page that is open: rule, and the elements."""
    from selenium_axe_python import Axe

    axe = Axe(browser)
    axe.inject()
    return [
        f"{found['id']}: {found['help']}: {'; '.join(node['html'][:120] for node in found['nodes'][:5])}"
        for found in axe.run()["violations"]
        if found["impact"] in ("serious", "critical")
    ]
