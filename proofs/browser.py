"""A headless Chromium, where there is one: for the tests that click through Dagster, and for pictures of it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

# Names an executable, before all other places.
VARIABLE = "CHROMIUM"
COMMANDS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "msedge")
USUAL_PLACES = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
    Path("/snap/bin/chromium"),
)
# The UI asks the webserver several times before it draws; a busy machine stretches a second to this.
PATIENCE_SECONDS = 60.0


def find_chromium(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The executable that CHROMIUM names, else one on the PATH, of `playwright install`, or where it usually is.

    Raises FileNotFoundError when CHROMIUM names what is not there.
    """
    if named := environment.get(VARIABLE):
        if shutil.which(named) is None:
            raise FileNotFoundError(f"{VARIABLE} was {named!r}: there is no such program")
        return Path(named)
    on_path = (shutil.which(one, path=environment.get("PATH")) for one in COMMANDS)
    if found := next((one for one in on_path if one), None):
        return Path(found)
    with sync_playwright() as playwright:
        installed = Path(playwright.chromium.executable_path)
    return next((one for one in (installed, *USUAL_PLACES) if one.exists()), None)


@contextmanager
def open_page(chromium: Path, width: int, height: int) -> Iterator[Page]:
    """An empty page of this size in pixels. What it waits for must come within PATIENCE_SECONDS."""
    # The sandbox cannot be had as root in a container; the pages are our own
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE_SECONDS * 1000)
            yield page
        finally:
            browser.close()
