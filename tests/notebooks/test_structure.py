"""Every stored notebook has been run, is clean and small, and has the shape of a lesson."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IGNORED = {"nbval-ignore-output", "nbval-skip"}
PICTURES = {"image/png", "image/svg+xml", "image/jpeg"}


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_every_code_cell_was_run_in_order(code: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(text(cell).strip() for cell in code)


def test_no_error_is_stored(code: list[dict[str, Any]]) -> None:
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


def test_nothing_went_to_standard_error(code: list[dict[str, Any]]) -> None:
    assert not [output for cell in code for output in cell["outputs"] if output.get("name") == "stderr"]


def test_no_widget_state_is_stored(notebook: dict[str, Any]) -> None:
    assert "widgets" not in notebook["metadata"]


def test_few_cells_are_ignored(code: list[dict[str, Any]]) -> None:
    ignored = [cell for cell in code if IGNORED & set(cell["metadata"].get("tags", []))]
    assert len(ignored) <= 0.1 * len(code)


def test_it_is_small(path: Path) -> None:
    assert path.stat().st_size <= 800_000


def test_it_has_the_shape_of_a_lesson(notebook: dict[str, Any]) -> None:
    cells = notebook["cells"]
    words = sum(len(re.findall(r"\w+", text(cell))) for cell in cells if cell["cell_type"] == "markdown")
    pictures = [i for i, cell in enumerate(cells) for o in cell.get("outputs", []) if PICTURES & set(o.get("data", {}))]
    folded = [cell for cell in cells if "hide-input" in cell["metadata"].get("tags", [])]
    assert 20 <= len(cells) - len(folded) <= 50
    assert 250 <= words <= 2500
    assert pictures and pictures[0] < 8


def test_it_asserts_its_numbers_and_checks_an_exercise(code: list[dict[str, Any]]) -> None:
    assert any(re.search(r"^assert ", text(cell), re.MULTILINE) for cell in code)
    assert len({name for cell in code for name in re.findall(r"\bcheck_\w+(?=\()", text(cell))}) >= 3


def test_what_checks_a_solution_is_folded_as_the_solution_is(notebook: dict[str, Any]) -> None:
    cells = notebook["cells"]
    after = [b for a, b in pairwise(cells) if a["cell_type"] == "markdown" and "<summary>A solution" in text(a)]
    checks = [
        cell for cell in after if cell["cell_type"] == "code" and re.search(r"^assert .*check_", text(cell), re.M)
    ]
    assert len(checks) >= 3
    for cell in checks:
        assert "hide-input" in cell["metadata"]["tags"] and cell["metadata"]["jupyter"] == {"source_hidden": True}
        assert text(cell).startswith("# the solution, checked\n")  # JupyterLab shows the first line of a folded cell
        assert not any(PICTURES & set(output.get("data", {})) for output in cell["outputs"])  # its code is worth seeing


def test_markdown_pictures_have_alternative_text(notebook: dict[str, Any]) -> None:
    markdown = [text(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert not [
        match for source in markdown for match in re.findall(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")", source)
    ]


def test_pictures_that_cells_show_have_alternative_text(code: list[dict[str, Any]]) -> None:
    for cell in code:
        for output in cell["outputs"]:
            for form in PICTURES & set(output.get("data", {})):
                assert len(output["metadata"].get(form, {}).get("alt", "").split()) >= 3, text(cell)


def test_its_first_cell_says_what_to_expect(notebook: dict[str, Any], path: Path) -> None:
    first = text(notebook["cells"][0])
    assert first.startswith(f"# {path.name[:2]} · ")
    assert f"](images/{path.stem}.png)" in first
    for promise in ("**You will be able to**", "**Time:**", "(images/colab.svg)", "(images/binder.svg)", "(README.md)"):
        assert promise in first


def test_it_ends_with_limits_and_where_to_go(notebook: dict[str, Any]) -> None:
    last = [text(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"][-1]
    assert re.search(r"^## .*[Ll]imits", last, re.MULTILINE) and ".ipynb)" in last


def test_nothing_comes_from_the_network_or_one_machine(notebook: dict[str, Any]) -> None:
    sources = "\n".join(text(cell) for cell in notebook["cells"])
    assert not re.search(r"(https?:)?//cdn|<script|!pip |%pip ", sources)
    assert not re.search(r"(?<![\w.])/(home|Users|root|tmp|mnt|opt|srv)/", json.dumps(notebook))
