"""Edits as small JSON files beside their pictures: validated, versioned, loaded and saved.

```json
{"version": 2, "model": "mini", "image": "before.png", "prompt": "a red ball on grass at day",
 "edits": [{"kind": "move", "mask": "mask.png", "by": [40, 0], "scale": 1.0, "angle": 0.0}],
 "guidance": {"preset": "mini", "steps": 50, "seed": 0}, "truth": {"image": "after.png", "mask": "target.png"}}
```

Paths are relative to the spec file, so that a folder can be moved or sent. The image may be generated instead of read:
``"image": {"generate": {"prompt": "a red ball", "seed": 3}}``. `Spec` is the file as data; `Task` is what the editor
needs, with pictures read and the edits built. Every mistake in a spec is an `InputError` of one line.
"""

from dragonkit.spec.edits import EDITS as EDITS
from dragonkit.spec.edits import EditSpec as EditSpec
from dragonkit.spec.edits import edit_spec as edit_spec
from dragonkit.spec.fields import GuidanceSpec as GuidanceSpec
from dragonkit.spec.fields import Spec as Spec
from dragonkit.spec.read import Task as Task
from dragonkit.spec.read import Truth as Truth
from dragonkit.spec.read import load_task as load_task
from dragonkit.spec.read import model_of as model_of
from dragonkit.spec.read import parse as parse
from dragonkit.spec.read import read_spec as read_spec
from dragonkit.spec.read import read_task as read_task
from dragonkit.spec.write import save_case as save_case
from dragonkit.spec.write import save_spec as save_spec

__all__ = [
    "EDITS",
    "EditSpec",
    "GuidanceSpec",
    "Spec",
    "Task",
    "Truth",
    "edit_spec",
    "load_task",
    "model_of",
    "parse",
    "read_spec",
    "read_task",
    "save_case",
    "save_spec",
]
