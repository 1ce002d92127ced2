"""What the documents say can be done, is done here: every code block, every link, every picture."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragonkit as dk
from dragonkit.cli import _parser, main
from dragonkit.spec import load_task

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for folder in (".", "data", "notebooks")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FENCE = re.compile(r"^```(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TESTED = {"python", "sh", "json", "bibtex"}
DIRECTIVES = {"{toctree}", "{eval-rst}"}  # the book's, which make docs tests
REAL = ("case", "edit", "render")
"""Commands that are quick enough to run; of the others the arguments are read."""


def blocks(language: str) -> list[Any]:
    """The code blocks of a language, and where each is."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{path.relative_to(ROOT)}:{line}"))
    return found


def test_every_block_says_what_it_is():
    assert DOCUMENTS and NOTEBOOKS
    languages = {m[1] for path in DOCUMENTS for m in FENCE.finditer(path.read_text(encoding="utf-8"))}
    assert languages <= TESTED | DIRECTIVES


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures that the examples name, the working directory."""
    demo = dk.data_path("edits", "demo")
    for name in ("before.png", "mask.png", "after.png", "target.png"):
        shutil.copy(demo / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def around() -> dict[str, Any]:
    """What an example may use without making it: a model, a picture with objects, another one, a result, points."""
    task = load_task(dk.data_path("edits", "demo", "edit.json"))
    model, mask = dk.load("mini"), task.mask
    by = task.edit.by
    points = dict(
        zip(("x0", "y0", "x1", "y1", "x2", "y2", "x", "y"), (90, 120, 100, 120, 60, 200, 60, 120), strict=True)
    )
    quick = dk.Guidance.preset("fast", "move").replace(steps=3)
    result = dk.edit(model, task.image, dk.Move(mask, by=by), task.prompt, guidance=quick, trace=True, progress=False)
    return points | {
        "model": model,
        "image": task.image,
        "mask": mask,
        "a": mask,
        "b": np.roll(mask.numpy(), 80, 1),
        "reference": task.truth.image,
        "reference_mask": task.truth.mask,
        "prompt": task.prompt,
        "edited": task.truth.image,
        "result": result,
    }


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, around, pictures):
    exec(compile(code, "example", "exec"), {"dk": dk, **around})
    named = re.findall(r"\.save\(\"([^\"]+)\"\)", code)
    assert all((pictures / name).is_file() for name in named)


@pytest.mark.parametrize("code", blocks("json"))
def test_json_is_an_edit(code, pictures):
    (pictures / "edit.json").write_text(code)
    task = load_task(pictures / "edit.json")
    assert task.edits and task.truth is not None


@pytest.mark.parametrize("code", blocks("sh"))
def test_commands_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        words = ["python", *words[words.index("-m") :]] if words[:1] == ["torchrun"] else words
        if words[:1] == ["make"]:
            made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
        elif words:
            assert words[:3] == ["python", "-m", "dragonkit"], line
            assert _parser().parse_args(words[3:]).run
            if words[3] in REAL:
                assert main(words[3:]) == 0
                assert (tmp_path / words[words.index("--out") + 1]).exists()


@pytest.mark.parametrize("code", blocks("bibtex"))
def test_the_citation_is_that_of_the_citation_file(code):
    cff = (ROOT / "CITATION.cff").read_text()
    for field in ("title", "year"):
        value = re.search(rf"{field} *= *{{([^}}]+)}}", code)[1]
        assert value in cff


def prose(path: Path) -> str:
    """Markdown without its code."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """The names of a document's headings, as GitHub and the book make them."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(path) if path.suffix == ".ipynb" else path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_pictures_have_words(path):
    text = prose(path)
    for alt in re.findall(r"!\[([^\]]*)\]\(", text):
        assert len(alt.split()) >= 2, f"a picture of {path.name} says only {alt!r}"
    # a badge is a picture inside a link: take both targets
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https://", target):
            continue
        assert not re.match(r"\w+:", target), f"{target}: only https and files of the project"
        name, _, anchor = target.partition("#")
        place = (path.parent / name).resolve() if name else path
        assert place.exists() and place.is_relative_to(ROOT), f"{path.name} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{path.name} links to {target}"


def test_badges_lead_to_this_repository():
    home = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    owner = home.removeprefix("https://github.com/")
    for path in NOTEBOOKS:
        text = prose(path)
        assert f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{path.name}" in text
        assert f"https://mybinder.org/v2/gh/{owner}/main?labpath=notebooks%2F{path.name}" in text
