"""A notebook in a browser, used as a person would, and asked in Python what came of it."""

from __future__ import annotations

import ast
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import BlockingKernelClient
from playwright.sync_api import Locator, Page

from tests.browser.gestures import still


class Notebook:
    """One notebook, its page and its kernel.

    Args:
        url: of the server.
        root: the server's folder.
        runtime: where the server's kernels leave their connection files.
        page: to open it in.
        name: of its file.
    """

    def __init__(self, url: str, root: Path, runtime: Path, page: Page, name: str) -> None:
        self.url, self.root, self.runtime, self.page, self.name = url, root, runtime, page, name
        self.client: BlockingKernelClient | None = None

    def run(self, *cells: str, app: str = "lab") -> Notebook:
        """Write the cells into the file, open it, and run all of them.

        Args:
            cells: Python, one text a cell.
            app: "lab" or "notebook" (Notebook 7).
        """
        file = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        file.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(file, self.root / self.name)
        return self._open(app)

    def copy(self, path: Path, app: str = "lab") -> Notebook:
        """Open a copy of a notebook file, its outputs taken away, and run all of its cells."""
        file = nbformat.read(path, as_version=4)
        for cell in file.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(file, self.root / self.name)
        return self._open(app)

    def _open(self, app: str) -> Notebook:
        place = {"lab": "doc/tree", "notebook": "notebooks"}[app]
        self.page.goto(f"{self.url}/{place}/{self.name}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self._attach()
        self.run_all()
        return self

    def run_all(self) -> None:
        """Run every cell and wait until the kernel has nothing left to do.

        Raises:
            AssertionError: a cell ended in an error.
        """
        self.page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", polling=100)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        errors = self.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
        broken = self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
        assert broken.count() == 0, broken.first.inner_text() + (errors.first.inner_text() if errors.count() else "")

    def python(self, code: str, timeout: float = 60) -> Any:
        """The value of a Python expression in the notebook's kernel; it must have a literal ``repr``."""
        assert self.client is not None
        reply = self.client.execute_interactive(
            "", user_expressions={"value": f"repr({code})"}, timeout=timeout, store_history=False
        )
        value = reply["content"]["user_expressions"]["value"]
        assert value["status"] == "ok", f"{code}: {value.get('evalue')}"
        return ast.literal_eval(ast.literal_eval(value["data"]["text/plain"]))

    def do(self, code: str, timeout: float = 60) -> None:
        """Run statements in the notebook's kernel."""
        assert self.client is not None
        reply = self.client.execute_interactive(code, timeout=timeout, store_history=False, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", f"{code}: {reply['content'].get('evalue')}"
        self._caught_up()

    def until(self, code: str, value: Any = True, seconds: float = 60) -> Any:
        """Wait until a Python expression has a value, and the page knows; fail with what it has instead."""
        end = time.monotonic() + seconds
        while (found := self.python(code)) != value:
            assert time.monotonic() < end, f"{code} is {found!r} and not {value!r} after {seconds} s"
            self.page.wait_for_timeout(100)
        self._caught_up()
        return found

    def _caught_up(self) -> None:
        """Wait until the page has dealt with what the kernel has sent so far.

        A kernel's messages are dealt with in turn. So once the page has the answer to a question of its own, it has all
        that was sent before; without that a gesture may come before the change that the test has seen in Python.
        """
        self.page.evaluate(
            """async () => {
                const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel;
                const answered = kernel?.requestExecute({ code: "", silent: true, store_history: false }).done;
                await Promise.race([answered, new Promise((end) => setTimeout(end, 10000))]).catch(() => {});
            }"""
        )

    def comes(self, what: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something about the page is so: much is drawn some time after it was asked for."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"not within {seconds} s"
            self.page.wait_for_timeout(50)

    def widget(self, selector: str) -> Locator:
        """The first element of a widget, once it is shown."""
        found = self.page.locator(selector).first
        found.wait_for(state="visible")
        return found

    def reveal(self, selector: str, code: str) -> Locator:
        """A widget's first element, once its cell was scrolled to: JupyterLab does not draw what is far away.

        Args:
            selector: of the element.
            code: part of the source of the first cell that holds the widget.
        """
        self.page.evaluate(
            """async (code) => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const holds = (cell) => cell.model.type === "code" && cell.model.sharedModel.getSource().includes(code);
                await notebook.scrollToItem(notebook.widgets.findIndex(holds), "start");
            }""",
            code,
        )
        found = self.widget(selector)
        still(found, looks=10)  # cells above it are still being drawn
        return found

    def restart(self) -> None:
        """Restart the kernel, as the menu does but without its question."""
        kernel = "window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel"
        self.page.evaluate(f"() => {kernel}.restart()")
        self._detach()
        self._attach()

    def close(self) -> None:
        """Let go of the kernel, and end it: a notebook's kernel would hold its model until the last test."""
        self._detach()
        if session := self._session():
            ending = urllib.request.Request(f"{self.url}/api/sessions/{session['id']}", method="DELETE")
            urllib.request.urlopen(ending, timeout=30).close()

    def _detach(self) -> None:
        if self.client is not None:
            self.client.stop_channels()
            self.client = None

    def _session(self) -> dict[str, Any] | None:
        with urllib.request.urlopen(f"{self.url}/api/sessions", timeout=10) as answer:
            return next((one for one in json.load(answer) if one["path"] == self.name), None)

    def _started(self) -> dict[str, Any]:
        for _ in range(300):
            if session := self._session():
                return session
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{self.name} has no kernel after 30 s")

    def _attach(self) -> None:
        file = self.runtime / f"kernel-{self._started()['kernel']['id']}.json"
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels()
        end = time.monotonic() + 60
        while True:
            try:
                return self.client.wait_for_ready(timeout=60)
            except RuntimeError:  # a kernel that starts on a busy machine misses a heartbeat and is called dead
                if time.monotonic() > end:
                    raise
