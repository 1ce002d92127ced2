"""A JupyterLab of our own and a headless Chromium that may talk to this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from tests.browser.notebook import Notebook
from tests.browser.server import LOOPBACK, Lab, launch_options, serving

expect.set_options(timeout=60_000)  # as long as everything else may take on a busy machine


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    """The system's Chromium where there is one, else playwright's own."""
    return browser_type_launch_args | launch_options()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server for all tests."""
    with serving(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


def strangers(context: BrowserContext) -> list[str]:
    """The addresses outside this machine that pages ask for, filled as they do."""
    asked: list[str] = []

    def note(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in LOOPBACK:
            asked.append(request.url)

    context.on("request", note)
    return asked


@pytest.fixture
def screen(request: pytest.FixtureRequest) -> dict:
    """The browser window; ``@pytest.mark.parametrize("screen", [{...}], indirect=True)`` changes it."""
    return {"viewport": {"width": 1280, "height": 1000}} | getattr(request, "param", {})


@pytest.fixture
def tab(browser: Browser, screen: dict) -> Iterator[Page]:
    """A page that can reach this machine only; the test fails if anything else was asked for."""
    context = browser.new_context(**screen)
    asked = strangers(context)
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()
    assert not asked, f"asked for addresses outside this machine: {asked}"


@pytest.fixture
def notebook(lab: Lab, tab: Page, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """A new notebook, open in JupyterLab; fill and run it with ``notebook.run(cells)``."""
    name = request.node.name.translate(str.maketrans("[]/ ", "____"))[:60]
    opened = Notebook(lab.url, lab.root, lab.runtime, tab, f"{name}.ipynb")
    yield opened
    opened.close()
