"""The browser's side of the widgets: plain scripts and styles beside this file, joined without a build step.

A front end is given one ES module a widget. What several share lies in files of its own, which declare functions and
classes and import nothing; a module is those files, one after the other, the widget's own with its ``export`` last.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"


def module(*names: str) -> str:
    """The ES module made of ``static/NAME.js`` for each name, in this order."""
    return "\n".join(f"// {name}.js\n{(STATIC / f'{name}.js').read_text(encoding='utf-8')}" for name in names)


def styles(*names: str) -> str:
    """The style sheet made of ``static/NAME.css`` for each name, in this order."""
    return "\n".join((STATIC / f"{name}.css").read_text(encoding="utf-8") for name in names)
