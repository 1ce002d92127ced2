"""Bundled files are found in a checkout, or explained."""

import pytest

import dragonkit.data
from dragonkit.data import data_path
from dragonkit.errors import InputError


def test_finds_what_is_bundled() -> None:
    assert data_path().name == "data"
    assert (data_path("mini") / "model_index.json").is_file()
    assert data_path("edits", "demo", "edit.json").is_file()


def test_names_what_is_missing_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"^mini/nothing\.json is not in .*reinstall the wheel$"):
        data_path("mini", "nothing.json")


def test_an_installed_copy_looks_inside_itself(tmp_path, monkeypatch) -> None:
    (tmp_path / "dragonkit" / "_data" / "mini").mkdir(parents=True)
    (tmp_path / "data" / "other").mkdir(parents=True)
    monkeypatch.setattr(dragonkit.data, "_PACKAGE", tmp_path / "dragonkit")
    assert data_path("mini") == tmp_path / "dragonkit" / "_data" / "mini"
    with pytest.raises(InputError):
        data_path("other")
