"""Where the bundled files are: ``data/`` in a checkout, ``dragonkit/_data/`` in an installed copy."""

from __future__ import annotations

from pathlib import Path

from dragonkit.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def data_path(*parts: str) -> Path:
    """Find a bundled file or folder, for example ``data_path("mini")`` or ``data_path("edits", "demo", "edit.json")``.

    Args:
        *parts: names below the data folder; none gives the folder itself.

    Returns:
        The absolute path of something that exists.

    Raises:
        InputError: nothing of that name is bundled with this copy of the kit.
    """
    installed = _PACKAGE / "_data"  # made when the wheel is built, so a checkout never has it
    root = installed if installed.is_dir() else _PACKAGE.parent / "data"
    path = root.joinpath(*parts)
    if not path.exists():
        raise InputError(
            f"{'/'.join(parts) or 'the data folder'} is not in {root}: this copy of dragonkit is incomplete; "
            "fetch the whole repository again, or reinstall the wheel"
        )
    return path
