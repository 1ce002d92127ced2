"""``python -m dragonkit bench``: everything that is measured against exact answers or published ones."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonkit.cli.codes import INTERRUPTED
from dragonkit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_bench(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    bench = commands.add_parser("bench", help="measure against exact answers")
    measures = bench.add_subparsers(metavar="MEASURE", required=True)
    _add_edits(measures)
    _add_dragbench(measures)
    _add_correspondence(measures)
    _add_inversion(measures)
    _add_speed(measures)


def _add_edits(measures: Any) -> None:
    edits = measures.add_parser("edits", help="edits of scenes outside training, with ceilings and baselines")
    edits.add_argument("--kinds", nargs="+", default=["move"], help="kinds of edit (default: move)")
    edits.add_argument("--n", type=int, default=32, metavar="N", help="scenes of each kind (default: 32)")
    edits.add_argument("--seed", type=int, default=0, metavar="S", help="first scene's seed (default: 0)")
    edits.add_argument("--split", default="test", help="train or test; tune on train only (default: test)")
    edits.add_argument("--model", default="mini", help="name or folder of the model (default: mini)")
    _add_guidance(edits)
    edits.add_argument("--ablate", nargs="*", default=None, metavar="PART", help="parts to switch off in turn")
    edits.add_argument("--ablate-n", type=int, default=None, metavar="N", help="scenes for that (default: all)")
    edits.add_argument("--jobs", type=int, default=1, metavar="J", help="scenes to work on at once (default: 1)")
    edits.add_argument("--parts", type=Path, default=None, metavar="DIR", help="keeps finished scenes; goes on there")
    edits.add_argument("--sheet", type=Path, default=None, metavar="FILE.png", help="pictures: FILE-KIND.png and all")
    edits.add_argument("--json", type=Path, required=True, metavar="FILE")
    edits.set_defaults(run=_bench_edits)


def _add_dragbench(measures: Any) -> None:
    drags = measures.add_parser("dragbench", help="drags in photographs: DragBench or Drag100, as published")
    drags.add_argument("root", type=Path, metavar="ROOT", help="folder that the benchmark was unpacked into")
    drags.add_argument("--format", default="dragbench", help="dragbench or drag100 (default: dragbench)")
    drags.add_argument("--model", default="mini", help="name or folder of the model that edits (default: mini)")
    drags.add_argument(
        "--features-model", default=None, help="model that finds points again (default: the editing one)"
    )
    drags.add_argument("--layer", type=int, default=2, help="its decoder layer (default: 2)")
    drags.add_argument("--timestep", type=int, default=261, help="its timestep (default: 261)")
    drags.add_argument("--draws", type=int, default=8, help="noise draws averaged (default: 8)")
    drags.add_argument("--categories", nargs="+", default=None, help="only these (default: all)")
    drags.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N samples")
    drags.add_argument("--preset", default=None, help="guidance preset (default: the model's own)")
    drags.add_argument("--steps", type=int, default=None, help="DDIM steps (default: the preset's)")
    drags.add_argument("--out", type=Path, default=None, metavar="DIR", help="keeps edited images; goes on from there")
    drags.add_argument("--json", type=Path, required=True, metavar="FILE")
    drags.set_defaults(run=_bench_dragbench)


def _add_correspondence(measures: Any) -> None:
    points = measures.add_parser("correspondence", help="points found again by decoder features, by layer and timestep")
    points.add_argument("--n", type=int, default=16, metavar="N", help="pairs of pictures a change (default: 16)")
    points.add_argument("--seed", type=int, default=0, metavar="S", help="first pair's seed (default: 0)")
    points.add_argument("--split", default="test", help="train or test; choose by train only (default: test)")
    points.add_argument("--changes", nargs="+", default=None, help="between the two pictures (default: all six)")
    points.add_argument("--layers", nargs="+", type=int, default=[1, 2, 3, 4], help="decoder layers (default: 1 2 3 4)")
    points.add_argument("--timesteps", nargs="+", type=int, default=None, help="0 to 999 (default: ten, 1 to 721)")
    points.add_argument("--points", type=int, default=32, help="points a pair (default: 32)")
    points.add_argument("--draws", type=int, default=1, help="noise draws averaged (default: 1)")
    points.add_argument("--no-prompt", action="store_true", help="features under '' instead of the captions")
    points.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the pictures (default: 256)")
    points.add_argument("--model", default="mini", help="name or folder of the model (default: mini)")
    points.add_argument("--json", type=Path, required=True, metavar="FILE")
    points.add_argument("--figure", type=Path, default=None, metavar="FILE.png", help="heat maps")
    points.set_defaults(run=_bench_correspondence)


def _add_inversion(measures: Any) -> None:
    inversion = measures.add_parser("inversion", help="inversion and back: PSNR, drift, noise, cost")
    inversion.add_argument("--methods", nargs="+", default=None, metavar="METHOD", help="some only (default: all)")
    inversion.add_argument("--n", type=int, default=16, metavar="N", help="scenes (default: 16)")
    inversion.add_argument("--seed", type=int, default=0, metavar="S", help="first scene's seed (default: 0)")
    inversion.add_argument("--split", default="test", help="train or test; tune on train only (default: test)")
    inversion.add_argument("--model", default="mini", help="name or folder of the model (default: mini)")
    inversion.add_argument("--steps", type=int, default=50, help="DDIM steps (default: 50)")
    inversion.add_argument("--cfg", type=float, default=4.0, help="guidance scale where guided (default: 4)")
    inversion.add_argument("--json", type=Path, required=True, metavar="FILE")
    inversion.add_argument("--figure", type=Path, default=None, metavar="FILE.png")
    inversion.set_defaults(run=_bench_inversion)


def _add_speed(measures: Any) -> None:
    speed = measures.add_parser("speed", help="seconds of an edit, beside the official implementation's loop")
    speed.add_argument("--kind", default="move", help="kind of edit (default: move)")
    speed.add_argument("--n", type=int, default=None, metavar="N", help="scenes (default: 2)")
    speed.add_argument("--repeats", type=int, default=3, metavar="R", help="times each scene is edited (default: 3)")
    speed.add_argument("--seed", type=int, default=0, metavar="S", help="first scene's seed (default: 0)")
    speed.add_argument("--split", default=None, help="train or test (default: test)")
    speed.add_argument("--model", default="mini", help="name or folder of the model (default: mini)")
    speed.add_argument("--preset", default=None, help="guidance of both loops (default: the model's own)")
    speed.add_argument("--steps", type=int, default=50, help="their DDIM steps (default: 50)")
    speed.add_argument("--presets", nargs="*", default=None, help="timed beside them (default: mini, fast)")
    speed.add_argument(
        "--size",
        type=int,
        default=None,
        metavar="PIXELS",
        help=(
            "side of one picture: seconds and memory alone, for a model of any weights (default for a name in -random:"
            " the model's own; without it, scenes of 256 and their exact answers)"
        ),
    )
    speed.add_argument("--dtype", default=None, help="with --size: float16, bfloat16 or float32 (default: as load)")
    speed.add_argument("--json", type=Path, required=True, metavar="FILE")
    speed.set_defaults(run=_bench_speed)


def _bench_edits(args: argparse.Namespace) -> None:
    from dragonkit.evaluate.ablations import PAPER
    from dragonkit.evaluate.bench import Plan, report, run, table
    from dragonkit.evaluate.sheet import save_sheets
    from dragonkit.files import check_file, check_folder
    from dragonkit.models import load

    check_file(args.json, ".json")
    if args.sheet:
        check_file(args.sheet, ".png")
    if args.parts:
        check_folder(args.parts)
    plan = Plan(
        kinds=args.kinds,
        n=args.n,
        seed=args.seed,
        split=args.split,
        preset=args.preset,
        changes=_changes(args),
        ablate=() if args.ablate is None else args.ablate or PAPER,
        ablate_n=args.ablate_n,
    )

    model = load(args.model)
    done = run(model, plan, processes=args.jobs, parts=args.parts)
    scores = report(model, plan, done, args.jobs)
    _write_json(args.json, scores)
    print(table(scores))
    written = [args.json, *(save_sheets(done, args.sheet) if args.sheet else [])]
    print("wrote " + ", ".join(map(str, written)))


def _bench_dragbench(args: argparse.Namespace) -> None:
    from dragonkit.evaluate.dragbench import Dift, bench_dragbench, check_dragbench, table
    from dragonkit.files import check_file, check_folder
    from dragonkit.models import load

    check_file(args.json, ".json")
    if args.out is not None:
        check_folder(args.out)
    which = {"categories": args.categories, "limit": args.limit, "preset": args.preset, "steps": args.steps}
    check_dragbench(args.root, args.format, **which)

    model = load(args.model)
    other = args.features_model is not None and args.features_model != args.model
    features = Dift(
        model=load(args.features_model) if other else model, layer=args.layer, t=args.timestep, draws=args.draws
    )
    report = bench_dragbench(model, args.root, args.format, features=features, out=args.out, **which)
    _write_json(args.json, report)
    print(table(report))
    print(f"wrote {args.json}")


def _bench_correspondence(args: argparse.Namespace) -> None:
    from dragonkit.evaluate.correspondence import CHANGES, TIMESTEPS, bench_correspondence, check_bench, table
    from dragonkit.files import check_file

    check_file(args.json, ".json")
    if args.figure:
        check_file(args.figure, ".png")
    changes, timesteps = args.changes or CHANGES, args.timesteps or TIMESTEPS
    check_bench(changes, args.n, args.seed, args.split, timesteps, args.points, args.draws)

    from dragonkit.evaluate.correspondence_figure import heat_maps
    from dragonkit.models import load

    scores = bench_correspondence(
        load(args.model), args.n, args.seed, changes=changes, layers=args.layers, timesteps=timesteps,
        points=args.points, draws=args.draws, prompted=not args.no_prompt, split=args.split, size=args.size,
    )  # fmt: skip
    _write_json(args.json, scores)
    if args.figure:
        _write_figure(args.figure, heat_maps(scores))
    print(table(scores))
    print(f"wrote {args.json}" + (f" and {args.figure}" if args.figure else ""))


def _bench_inversion(args: argparse.Namespace) -> None:
    from dragonkit.evaluate.inversion import METHODS, bench_inversion, check_bench_inversion, table
    from dragonkit.files import check_file
    from dragonkit.models import load

    methods = args.methods or list(METHODS)
    check_file(args.json, ".json")
    if args.figure:
        check_file(args.figure, ".png")
    check_bench_inversion(methods, args.n, args.seed, args.split, args.steps, args.cfg)

    model = load(args.model)
    options = {"split": args.split, "steps": args.steps, "cfg": args.cfg}
    report = bench_inversion(model, methods, args.n, args.seed, **options)
    _write_json(args.json, report)
    if args.figure:
        from dragonkit.evaluate.inversion_figure import inversion_figure

        _write_figure(args.figure, inversion_figure(report))
    print(table(report))
    print(f"wrote {args.json}" + (f" and {args.figure}" if args.figure else ""))


def _bench_speed(args: argparse.Namespace) -> int:
    from dragonkit.evaluate.speed import bench_speed, check_speed, table
    from dragonkit.files import check_file
    from dragonkit.models import load

    check_file(args.json, ".json")
    one_size = args.size is not None or args.model.endswith("-random")
    for name in ("n", "split", "presets") if one_size else ("dtype",):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for {'scenes' if one_size else 'one --size'}: leave it out")
    if one_size:
        return _bench_card_speed(args)
    which = {name: getattr(args, name) for name in ("kind", "repeats", "preset", "steps", "presets")}
    which |= {"n": 2 if args.n is None else args.n, "split": args.split or "test"}
    check_speed(**which)

    scores = bench_speed(load(args.model), seed=args.seed, **which)
    _write_json(args.json, scores)
    print(table(scores))
    print(f"wrote {args.json}")
    return 0


def _bench_card_speed(args: argparse.Namespace) -> int:
    from dragonkit.evaluate.card_report import table
    from dragonkit.evaluate.card_speed import bench_card_speed, check_card_speed
    from dragonkit.loading.place import dtype_named

    which = {name: getattr(args, name) for name in ("kind", "size", "repeats", "preset", "steps")}
    check_card_speed(**which)
    dtype = None if args.dtype is None else dtype_named(args.dtype)
    kept: list[dict[str, Any]] = []

    def keep(report: dict[str, Any]) -> None:
        _write_json(args.json, report)
        kept.append(report)

    try:
        keep(bench_card_speed(args.model, seed=args.seed, dtype=dtype, keep=keep, **which))
    except KeyboardInterrupt:
        if not kept:
            raise
        print(f"\ndragonkit: interrupted, {args.json} holds what had been measured", file=sys.stderr)
        return INTERRUPTED
    print(table(kept[-1]))
    print(f"wrote {args.json}")
    return 0 if kept[-1]["equality"]["agrees"] else 1


def _write_json(place: Path, report: dict[str, Any]) -> None:
    from dragonkit.files import whole_file

    with whole_file(place) as path:
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_figure(place: Path, figure: Figure) -> None:
    from dragonkit.files import whole_file

    with whole_file(place) as path:
        figure.savefig(path)


def _add_guidance(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", default=None, help="guidance preset (default: the model's own)")
    command.add_argument("--steps", type=int, default=None, help="DDIM steps (default: the preset's)")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="change fields of the guidance, e.g. energy=2"
    )


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the guidance named by --set and --steps; values as JSON, or as text if they are none."""
    changes: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    for word in args.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set {word!r} has no value: write it as name=value")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes
