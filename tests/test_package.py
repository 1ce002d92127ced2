"""The package as others meet it: quick to import, complete by name, whole when installed from a wheel."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dragonkit

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "numpy", "diffusers", "transformers", "matplotlib", "skimage", "scipy", "PIL", "pydantic")


def python(code: str, *flags: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["dragonkit", "dragonkit.cli"])
def test_import_brings_nothing_heavy(module: str) -> None:
    assert python(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_every_public_name_is_there() -> None:
    for name in dragonkit.__all__:
        assert getattr(dragonkit, name) is not None
    assert set(dragonkit.__all__) <= set(dir(dragonkit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'drag_everything'"):
        dragonkit.drag_everything  # noqa: B018


def test_dependencies_are_pinned_by_the_tested_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line and not line.startswith("#")}
    assert {d.split(">=")[0] for d in wanted} - pinned == {"triton"}  # which torch pins itself


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_carries_data_licence_and_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"dragonkit/py.typed", "dragonkit_widgets/__init__.py", "dragonkit/_data/mini/model_index.json"} <= set(
        names
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.split("/")[0] in ("tests", "data", "notebooks") for name in names)


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"  # ahead of an editable install
        "import dragonkit as dk\n"
        "print(dk.__file__, dk.data_path('mini'), dk.data_path('scenes'), dk.data_path('edits', 'demo', 'edit.json'))\n"
        "print(sorted(dk.load('mini').parts))\n"
    )
    where, parts = python(code, "-P", cwd=tmp_path).splitlines()
    assert all(path.startswith(str(site)) for path in where.split())
    assert parts == "['text_encoder', 'unet', 'vae']"
