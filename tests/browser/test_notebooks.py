"""Every notebook runs in JupyterLab, and its widgets answer to the mouse.

What a person does there stands in ``course/``, one file a notebook: ``use(notebook)``.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_a_browser_and_its_widgets_are_used(notebook, path):
    errors: list[str] = []
    notebook.page.on("pageerror", lambda error: errors.append(str(error)))
    importlib.import_module(f"tests.browser.course.{path.stem.partition('_')[2]}").use(notebook.copy(path))
    assert not errors
