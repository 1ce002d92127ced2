"""Every exercise accepts what is right and refuses what is wrong; every notebook asks its own."""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import dragonkit.course
from dragonkit.course import ToDo, Wrong, called, exercise, show
from dragonkit.course.show import paletted
from dragonkit.errors import InputError
from dragonkit.film import to_pil

ROOT = Path(__file__).parents[1]
SHARED = ("exercise", "show", "stand_in")  # the others are a notebook's exercises each
TOPICS = sorted(m.name for m in pkgutil.iter_modules(dragonkit.course.__path__) if m.name not in SHARED)


def exercises(module: ModuleType) -> dict[str, Any]:
    """The checks that a module defines, by name."""
    return {
        name: check
        for name, check in vars(module).items()
        if getattr(check, "is_exercise", False) and check.__module__ == module.__name__
    }


@pytest.fixture(params=TOPICS, scope="module")
def topic(request: pytest.FixtureRequest) -> str:
    return request.param


def test_right_answers_are_accepted_and_wrong_ones_refused(topic, capsys):
    checks = exercises(importlib.import_module(f"dragonkit.course.{topic}"))
    answers = importlib.import_module(f"tests.course.{topic}").answers()
    assert set(answers) == set(checks), "answers() gives every exercise's by its name"
    for name, tried in answers.items():
        check = checks[name]
        assert tried.right and tried.wrong
        for answer in tried.right:
            capsys.readouterr()
            assert check(answer, **tried.context) is True
            assert re.match(r"Right: .{5,}", capsys.readouterr().out)
        for answer in tried.wrong:
            with pytest.raises(Wrong, match=r".{15,}"):
                check(answer, **tried.context)
        for blank in (None, ...):
            assert check(blank, **tried.context) is None
            assert re.match(r"To do: .{15,}", capsys.readouterr().out)


def spoilt(found: Any) -> Any:
    """A result with NaN in place of its numbers; the same object if it has none."""
    if isinstance(found, tuple):
        parts = tuple(map(spoilt, found))
        return parts if any(a is not b for a, b in zip(parts, found, strict=True)) else found
    numbers = isinstance(found, float) or (isinstance(found, torch.Tensor) and found.is_floating_point())
    return found * torch.nan if numbers else found


def test_nan_is_never_right(topic):
    checks = exercises(importlib.import_module(f"dragonkit.course.{topic}"))
    for name, tried in importlib.import_module(f"tests.course.{topic}").answers().items():
        for answer in filter(callable, tried.right):
            changed = []

            def with_nan(*args, answer=answer, changed=changed, **options):
                result = answer(*args, **options)
                changed.append(spoilt(result) is not result)
                return spoilt(result)

            try:
                checks[name](with_nan, **tried.context)
            except Wrong as hint:
                assert re.search("NaN|finite", str(hint)), name
            else:
                assert not any(changed), name


def test_its_notebook_asks_each_and_shows_a_solution(topic):
    (path,) = (ROOT / "notebooks").glob(f"[0-9][0-9]_{topic}.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    checks = exercises(importlib.import_module(f"dragonkit.course.{topic}"))
    for name in checks:
        assert len(re.findall(rf"\b{name}\(", code)) >= 2, f"{path.name} asks {name} and then checks a solution"
    assert words.count("<details>") >= len(checks)


def test_a_check_says_what_is_to_do_right_wrong_or_broken(capsys):
    @exercise
    def check_sum(add):
        """Write a function that adds two numbers."""
        if called(add, 2, 3) != 5:
            raise Wrong("2 and 3 make 5")
        return "that adds up"

    assert check_sum(None) is None and check_sum(lambda a, b: None) is None
    assert capsys.readouterr().out == "To do: Write a function that adds two numbers.\n" * 2
    assert check_sum(lambda a, b: a + b) is True
    assert capsys.readouterr().out == "Right: that adds up\n"
    for answer, hint in (
        (lambda a, b: a - b, "2 and 3 make 5"),
        (lambda a, b: a / 0, "ZeroDivisionError"),
        (5, "write a function; this is 5"),
    ):
        with pytest.raises(Wrong, match=hint) as caught:
            check_sum(answer)
        assert caught.value._render_traceback_()[0].startswith("Not yet: ")
    with pytest.raises(ToDo):
        called(lambda: ...)


def test_a_picture_is_shown_with_its_words():
    figure = Figure()
    figure.subplots().plot([1, 2])
    red = Image.new("RGB", (96, 64), (200, 0, 0))
    for picture in (figure, red, {"one": red, "two": red}):
        data, metadata = show(picture, "something that is seen")._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG") and data["text/plain"] == "[something that is seen]"
        assert metadata == {"image/png": {"alt": "something that is seen"}}
    assert show(red, "a red square").image.getpixel((4, 4)) == (200, 0, 0)
    busy = torch.rand(3, 64, 640, generator=torch.Generator().manual_seed(0))
    busy[:, :8, :8] = torch.tensor([0.96, 0.86, 0.16])[:, None, None]
    stored = show(busy, "a small yellow square in noise")._repr_mimebundle_()[0]["image/png"]
    corner = Image.open(io.BytesIO(stored)).convert("RGB").getpixel((4, 4))
    assert max(abs(a - 255 * b) for a, b in zip(corner, (0.96, 0.86, 0.16), strict=True)) < 26
    sky = torch.linspace(0.5, 1, 640).expand(3, 64, 640).clone()
    sky[:, :8, :8] = torch.tensor([0.96, 0.86, 0.16])[:, None, None]
    error = np.asarray(paletted(to_pil(sky)).convert("RGB")) / 255 - sky.permute(1, 2, 0).numpy()
    assert abs(error).mean() < 0.004 and abs(error).max() < 0.05
    for alt in ("", "figure", None):
        with pytest.raises(InputError, match="alt is"):
            show(red, alt)
