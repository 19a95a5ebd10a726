"""A page in headless Chromium, driven by Playwright: what a script finds there once every chart is drawn.

Needs Chromium (`chromium` on the PATH, or the program that ONG_CHROMIUM names); tests that need it are skipped without.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("ONG_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

PATIENCE = 120_000  # milliseconds; a busy machine draws slowly
DRAWN = "() => !document.querySelector('[data-chart]:not(.connected)')"  # charts draw themselves when they come near


def browse(
    page: Path, script: str, address: str = "", *, tools: str = "", dark: bool = False, width: int = 1280
) -> Any:
    """Open a page in a window tall enough to show it all, run a script (the body of a function) and return its result.

    Fails where the page raises, warns on the console or asks for anything beyond itself.
    """
    failed: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page(viewport={"width": width, "height": 16000}, color_scheme="dark" if dark else "light")
        window.on("pageerror", lambda error: failed.append(str(error)))
        window.on("console", lambda told: failed.append(told.text) if told.type in ("error", "warning") else None)
        window.on("request", lambda request: None if request.is_navigation_request() else failed.append(request.url))
        window.goto(page.as_uri() + address)
        window.wait_for_function(DRAWN, timeout=PATIENCE)
        found = window.evaluate(f"async () => {{ {tools}\n{script} }}")
        browser.close()
    assert failed == []
    return found
