"""The browser, the server and the kernel work together, and nothing leaves this machine."""

import pytest

CELLS = (
    "import ipywidgets\nbutton = ipywidgets.Button(description='press')\npressed = []\n"
    "button.on_click(lambda b: pressed.append(1))\nbutton",
    "answer = 41 + 1",
)


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_widget_answers_in_python(notebook, app):
    notebook.run(*CELLS, app=app)
    assert notebook.python("answer") == 42
    notebook.widget("button.jupyter-button").click()
    notebook.until("pressed", [1])
