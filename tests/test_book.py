"""The book builds offline without a warning, and needs no network to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("book")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        "notebooks/book",
        ".",
        out,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_notebook_is_a_page_with_its_pictures_and_formulas(book):
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        page = (book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "<img" in page and "Traceback" not in page
        if "$$" in path.read_text(encoding="utf-8"):
            assert "<math" in page
        assert r"\frac" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)


def test_the_reference_has_what_the_package_offers(book):
    pages = (book / "notebooks" / "book" / "api").glob("*.html")
    reference = "".join(page.read_text(encoding="utf-8") for page in pages)
    for name in (
        "dragonkit.editor.edit",
        "dragonkit.edits.move.Move",
        "dragonkit.guidance.Guidance",
        "dragonkit.energy.similarity",
    ):
        assert f'id="{name}"' in reference
    widgets = (book / "notebooks" / "book" / "widgets.html").read_text(encoding="utf-8")
    assert 'id="dragonkit_widgets.EditStudio"' in widgets


def test_nothing_is_loaded_from_a_network(book):
    for path in book.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"([^\"]+)\"", page)
        loaded += re.findall(r"<link\b(?=[^>]*rel=\"(?:stylesheet|icon|preload)\")[^>]*href=\"([^\"]+)\"", page)
        assert not [one for one in loaded if re.match(r"(https?:)?//", one)], path.name
    for path in book.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path.name
