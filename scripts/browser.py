"""The Chromium of the tests in the editor and of the pictures; `python -m scripts.browser` says whether one starts.

Imports nothing but the standard library until a browser is started, so that the set-up can ask it too.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The sandbox needs a user namespace, which containers seldom have; the rest keeps Chromium from calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ADVICE = "install Chromium (Debian: apt install chromium), or point CHROMIUM at one"


def system_browser() -> str | None:
    """The Chromium that CHROMIUM points at, else the system's; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)


def launch(playwright: Playwright) -> Browser:
    """The system's browser, else Playwright's own, without a window.

    Raises:
        RuntimeError: none starts; the message says what to do.
    """
    from playwright.sync_api import Error

    try:
        return playwright.chromium.launch(executable_path=system_browser(), args=FLAGS)
    except Error as error:
        raise RuntimeError(f"no Chromium starts: {ADVICE}") from error


def main() -> None:
    """End with one line where no browser starts."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise SystemExit("no Playwright in this Python: pip install playwright") from None
    with sync_playwright() as playwright:
        try:
            launch(playwright).close()
        except RuntimeError as error:
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
