"""The book: ``make docs`` builds it from the notebooks as they are stored, the glossary and the docstrings."""

import html
import importlib.metadata
import re

from docutils import nodes
from latex2mathml.converter import convert

project = "dragonkit"
author = copyright = "dragonkit maintainers"
version = release = importlib.metadata.version("dragonkit")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "notebooks/book/index"
include_patterns = ["README.md", "CHANGELOG.md", "notebooks/**", "data/README.md", "data/**/README.md"]  # all that link
exclude_patterns = ["**/.*"]
suppress_warnings = ["ref.python"]  # a name that two modules have, such as Regions
html_theme = "furo"
html_title = "dragonkit"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False

nb_execution_mode = "off"  # their outputs are stored, and checked by the tests
nb_merge_streams = True
nb_code_prompt_show = "The cell that checks the solution"  # {type} would be "source"
nb_code_prompt_hide = "Fold it again"
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 3

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def _mathml(self, node: nodes.Node, display: str) -> None:
    """Formulas as MathML, which browsers draw themselves: the usual scripts for TeX come from a network."""
    text = node.astext().strip()
    tag = re.search(r"\\tag\{([^}]*)\}", text)
    bare = text.replace(tag.group(0), "") if tag else text
    drawn = convert(bare.replace(r"\|", r"\Vert "), display=display)  # the converter knows a norm by this name only
    number = f'<span class="eqno">({html.escape(tag.group(1))})</span>' if tag else ""
    element = "div" if display == "block" else "span"
    self.body.append(f'<{element} class="math">{number}{drawn}</{element}>')
    raise nodes.SkipNode


def _formulas_stand_alone(app, what, name, obj, options, lines: list[str]) -> None:
    """An indented paragraph of a docstring is a formula or an example, shown as it stands."""
    for k in range(len(lines) - 2, 0, -1):
        before, blank, after = lines[k - 1 : k + 2]
        paragraph = before.strip() and not before.startswith(" ") and not before.rstrip().endswith("::")
        if paragraph and not blank.strip() and after.startswith("    "):
            lines[k : k + 1] = ["", "::", ""]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _formulas_stand_alone, priority=400)  # before napoleon reads the sections
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: _mathml(self, node, "inline"), None),
        (lambda self, node: _mathml(self, node, "block"), None),
    )


html_math_renderer = "mathml"
