"""``python -m dragonkit many``: every spec of a folder or a list, on one device or several.

Started by torchrun or ``accelerate launch``, each process works on the GPU of its LOCAL_RANK, and the first one alone
reports. It is also the only one whose exit code says that a job failed: at the first that is not 0 the launcher ends
all the others, the one that reports among them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonkit.cli.codes import FAILED, INTERRUPTED
from dragonkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragonkit.many.devices import Row


_RANK = ("kept", "failed", "done")
"""Which of two reports of one job is the better one: who has done it knows more than who has found it done."""


def add_many(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    many = commands.add_parser("many", help="carry out every edit of a folder or a .jsonl file")
    many.add_argument("source", type=Path, metavar="FOLDER_OR_JSONL", help="NAME.json, NAME/edit.json, or lines")
    many.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets NAME/edit.png and NAME/result.json")
    many.add_argument("--model", default=None, help="edits them all (default: the one that the specs name)")
    many.add_argument("--batch", type=int, default=None, metavar="N", help="edits at once (default: GPU 4, CPU 1)")
    many.add_argument("--devices", nargs="+", default=None, metavar="DEVICE", help="cuda:0 cuda:1; not with torchrun")
    many.add_argument("--memory", default="full", help="full or low (default: full)")
    many.add_argument("--json", type=Path, default=None, metavar="FILE", help="gets the summary")
    many.set_defaults(run=_many)


def _many(args: argparse.Namespace) -> int:
    """Carry out the command: 0 if every job is done, 1 if one failed, 130 after an interrupt."""
    from tqdm import tqdm

    from dragonkit.files import check_file, check_folder
    from dragonkit.many.devices import Work, launched, rows_on
    from dragonkit.many.jobs import model_named, read_jobs

    place = launched()
    if place and args.devices:
        given = f"--devices {' '.join(args.devices)} and LOCAL_RANK={os.environ['LOCAL_RANK']}"
        raise InputError(f"{given} both say where to work: leave out --devices, or start it without torchrun")
    check_folder(args.out)
    if args.json:
        check_file(args.json, ".json")
    jobs = read_jobs(args.source)
    model = args.model or model_named(jobs)
    options = {"batch": args.batch, "memory": args.memory}
    work = Work(args.source, args.out, model, args.model is None, options)
    devices = [place.device] if place else args.devices or [None]
    known: dict[str, Row] = {}
    ready: list[Row] = []
    began = time.time()
    rows = work.rows(devices[0]) if len(devices) == 1 else rows_on(work, devices)
    if place and place.rank:
        return _silent(rows)
    try:
        with tqdm(total=len(jobs), desc="many", unit="job", file=sys.stderr) as bar:
            for row in rows:
                if not row.name:
                    ready += [row] if row.state == "ready" else []
                    if row.error:
                        bar.write(f"{row.device}: {row.error}", file=sys.stderr)
                    continue
                before = known.get(row.name)
                if before is None or _RANK.index(row.state) > _RANK.index(before.state):
                    known[row.name] = row
                if row.error and (before is None or before.error is None):
                    bar.write(f"{row.name}: {row.error}", file=sys.stderr)
                bar.update(len(known) - bar.n)
    except KeyboardInterrupt:
        print(f"\ndragonkit: interrupted; what is done is in {args.out}, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
    lost = [job.name for job in jobs if job.name not in known]
    summary = _summary(work, list(known.values()), lost, ready, began)
    print(_table(summary))
    if place and place.count > 1:
        print(f"{place.count} processes: what another did counts as kept here, and the rate is this one's alone")
    if args.json:
        from dragonkit.files import whole_file

        with whole_file(args.json) as path:
            path.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"wrote {args.json}")
    return FAILED if summary["failed"] else 0


def _silent(rows: Iterator[Row]) -> int:
    """Work, and leave every report to the first process, which finds all that this one does."""
    try:
        for _ in rows:
            pass
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _summary(work: Any, rows: list[Row], lost: list[str], ready: list[Row], began: float) -> dict[str, Any]:
    """Everything that is to be said of a run, as JSON would have it."""
    from dragonkit.evaluate.report import made_with

    loaded = sorted(row.at - began for row in ready) or [0.0]
    jobs = [
        {
            "name": row.name,
            "state": row.state,
            "device": row.device,
            "at": round(row.at - began, 3),
            "nfe": row.nfe,
            "seconds": None if row.seconds is None else round(row.seconds, 3),
            "error": row.error,
        }
        for row in rows
    ]
    jobs += [{"name": name, "state": "failed", "error": "the process that worked at it was killed"} for name in lost]
    jobs.sort(key=lambda job: str(job["name"]))
    states = [job["state"] for job in jobs]
    return {
        "model": work.model,
        "out": str(work.out),
        "devices": sorted(row.device for row in ready),
        **{state: states.count(state) for state in ("done", "kept", "failed")},
        "seconds": round(time.time() - began, 3),
        "loading_seconds": round(loaded[0], 3),
        "all_loaded_seconds": round(loaded[-1], 3),
        "jobs": jobs,
        "made_with": made_with(),
    }


def _table(summary: dict[str, Any]) -> str:
    """The summary for the terminal: one line a job, then the sums."""
    wide = max(len("job"), *(len(str(job["name"])) for job in summary["jobs"]))
    lines = [f"{'job':{wide}}  state   device    NFE  seconds"]
    for job in summary["jobs"]:
        cells = [job.get(name) for name in ("device", "nfe", "seconds")]
        device, nfe, seconds = ("" if cell is None else cell for cell in cells)
        said = job.get("error") or ""
        shown = f"{seconds:.1f}" if seconds != "" else ""
        lines.append(f"{job['name']:{wide}}  {job['state']:6}  {device:8}  {nfe!s:>4}  {shown:>6}  {said}".rstrip())
    counts = ", ".join(f"{summary[state]} {state}" for state in ("done", "kept", "failed"))
    editing = summary["seconds"] - summary["loading_seconds"]
    rate = f", {60 * summary['done'] / editing:.1f} edits a minute" if summary["done"] and editing else ""
    took = f"{summary['seconds']:.1f} s ({summary['loading_seconds']:.1f} loading)"
    return "\n".join([*lines, f"{counts} in {took}{rate}"])
