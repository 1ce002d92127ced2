"""The command line: ``python -m dragonkit edit | many | render | case | bench | models | lab``.

Every mistake of the user is one line on standard error and exit code 2, an interrupt is 130; in both cases nothing has
been written, because results are first written beside their place and moved there once they are complete: only what
``many`` has finished and ``bench speed --size`` has measured is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dragonkit import __version__
from dragonkit.cli.bench import add_bench
from dragonkit.cli.codes import BAD_INPUT as BAD_INPUT
from dragonkit.cli.codes import INTERRUPTED as INTERRUPTED
from dragonkit.cli.many import add_many
from dragonkit.cli.models import add_models
from dragonkit.errors import InputError, NonFiniteError, OutOfMemoryError, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; those of the process if None.

    Returns:
        The exit code: 0, 1 if some of many edits failed or a bench's results disagree, 2 after bad input, 130 after an
        interrupt.
    """
    try:
        args = _parser().parse_args(argv)
        return args.run(args) or 0
    except (InputError, NonFiniteError, OutOfMemoryError) as error:
        print("dragonkit: " + one_line(error), file=sys.stderr)
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        from dragonkit.memory import exhausted

        if not exhausted(error):
            raise
        remedy = "give a smaller model, size or batch, or a GPU with more"
        print(f"dragonkit: out of memory ({one_line(error, 200)}): {remedy}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:  # a full disk, most often
        print(f"dragonkit: {one_line(error)}: make room or let it be written, or give another place", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ndragonkit: interrupted, nothing written", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}: see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dragonkit", description="Drag-style image editing by diffusion feature guidance.")
    parser.add_argument("--version", action="version", version=f"dragonkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    edit = commands.add_parser("edit", help="carry out an edit described by a JSON file")
    edit.add_argument("spec", type=Path, metavar="SPEC.json")
    edit.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets edit.png, overview.png, result.json")
    edit.add_argument("--memory", default="full", help="full, or low on a small GPU (default: full)")
    edit.set_defaults(run=_edit)

    add_many(commands)

    render = commands.add_parser("render", help="render a random scene of the bundled world")
    render.add_argument("--seed", type=int, required=True, metavar="N")
    render.add_argument("--split", default="test", help="train or test (default: test)")
    render.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the image (default: 256)")
    render.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    render.set_defaults(run=_render)

    case = commands.add_parser("case", help="write an edit of the bundled world, with its exact answer, as a spec")
    case.add_argument("--kind", default="move", help="kind of edit (default: move)")
    case.add_argument("--seed", type=int, required=True, metavar="N")
    case.add_argument("--split", default="test", help="train or test (default: test)")
    case.add_argument("--out", type=Path, required=True, metavar="DIR")
    case.set_defaults(run=_case)

    add_bench(commands)
    add_models(commands)

    lab = commands.add_parser("lab", help="open the notebooks in JupyterLab")
    lab.set_defaults(run=_lab)
    return parser


def _edit(args: argparse.Namespace) -> None:
    from dragonkit.files import check_folder, whole_folder, write_image
    from dragonkit.spec import load_task

    check_folder(args.out)
    task = load_task(args.spec)

    from dragonkit.editor import edit
    from dragonkit.evaluate.figure import overview
    from dragonkit.evaluate.report import Report
    from dragonkit.models import load

    model = load(task.model)
    task = task.ready(model)
    result = edit(model, task.image, task.edit, task.prompt, guidance=task.guidance, trace=True, memory=args.memory)
    report = Report.of(task, result)
    with whole_folder(args.out) as folder:
        write_image(result.tensor, folder / "edit.png")
        overview(task, result, report).savefig(folder / "overview.png")
        (folder / "result.json").write_text(report.to_json() + "\n", encoding="utf-8")
    print(report)
    print(f"wrote {args.out}/edit.png, overview.png and result.json")


def _render(args: argparse.Namespace) -> None:
    from dragonkit.files import check_file, whole_file, write_image
    from dragonkit.world import caption, render, sample_scene

    check_file(args.out, ".png")
    scene = sample_scene(args.seed, args.split)
    picture = render(scene, size=args.size)
    with whole_file(args.out) as path:
        write_image(picture.image, path)
    print(f"{args.out}: {caption(scene)}")


def _case(args: argparse.Namespace) -> None:
    from dragonkit.files import check_folder
    from dragonkit.spec import save_case
    from dragonkit.world import counterfactual

    check_folder(args.out)
    case = counterfactual(args.kind, args.seed, split=args.split)
    print(f"{save_case(case, args.out)}: {case.prompt}")


def _lab(args: argparse.Namespace) -> None:
    from importlib.util import find_spec

    import dragonkit

    notebooks = Path(dragonkit.__file__).parent.parent / "notebooks"
    first = notebooks / "00_quickstart.ipynb"
    if not first.is_file():
        raise InputError(f"no notebooks in {notebooks.parent}: they are in the repository, not in the wheel; clone it")
    if find_spec("jupyterlab") is None:
        raise InputError("JupyterLab is not installed: run make setup, or pip install -e '.[notebooks]'")
    subprocess.run([sys.executable, "-m", "jupyterlab", str(first)], cwd=notebooks.parent, check=False)
