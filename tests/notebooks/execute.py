"""Run notebooks from top to bottom and store them clean: ``python tests/notebooks/execute.py notebooks/*.ipynb``.

A notebook is only written back if every cell ran without an error.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path, timeout: int = 600) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
    clean(notebook)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what belongs to one run or one machine: widget state, timings, the kernel's exact version."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if tags and "hide-input" in tags:  # the book folds by the tag, JupyterLab and Colab by words of their own
            cell.metadata |= nbformat.from_dict({"jupyter": {"source_hidden": True}, "cellView": "form"})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
        print(f"{name}: {Path(name).stat().st_size / 1e6:.2f} MB")
