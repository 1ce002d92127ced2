"""The report of ``bench speed --size``: each way to edit beside the official one, as JSON and as a table."""

from __future__ import annotations

from typing import Any

from dragonkit.evaluate.report import tidy

_ORDER = ("official", "eager", "ours", "low")


def fits(row: dict[str, Any]) -> bool:
    """Whether a way was measured, or else memory was too small for it."""
    return "seconds" in row


def compared(report: dict[str, Any]) -> dict[str, Any]:
    """A report with shares of the card's arithmetic peak and ratios to the official way, as far as they are known."""
    rows, run = report["variants"], report["run"]
    slowest = rows.get("official", {}).get("seconds")
    peaks = {"measured": run.get("matrix_product_flops"), "nominal": run.get("nominal_flops")}

    def beside(row: dict[str, Any]) -> dict[str, Any]:
        if not fits(row):
            return row
        rate = None if row.get("flops") is None else row["flops"] / row["seconds"]
        share = {name: None if rate is None or peak is None else rate / peak for name, peak in peaks.items()}
        faster = {"official": None if slowest is None else slowest / row["seconds"]}
        return {"flops": None} | row | {"share_of_peak": share, "times_faster": faster}

    return tidy(report | {"variants": {name: beside(rows[name]) for name in _ORDER if name in rows}})


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    run, made, (height, width) = report["run"], report["made_with"], report["run"]["size"]
    columns = ("s", 8), ("x official", 12), ("first s", 9), ("NFE", 6), ("TFLOP", 9), ("of peak", 9)
    lines = [
        f"{run['model']}, {width}x{height}, {run['dtype']}; {run['kind']}, {run['preset']}, {run['steps']} steps",
        f"{made['hardware']}; median of {run['repeats']}; peak is a matrix product's; GB are 10^9 bytes",
        " " * 10 + "".join(name.rjust(wide) for name, wide in (*columns, ("GB", 8), ("reserved", 10))),
    ]
    for name, row in report["variants"].items():
        if not fits(row):
            lines.append(f"{name:10}{row['out_of_memory']}")
            continue
        share, faster, peak = row["share_of_peak"]["measured"], row["times_faster"]["official"], row["peak_gb"] or {}
        cells = (
            f"{row['seconds']:.2f}",
            "-" if faster is None else f"{faster:.2f}",
            f"{row['first_call_seconds']:.1f}",
            f"{row['nfe']:g}",
            "-" if row["flops"] is None else f"{row['flops'] / 1e12:.2f}",
            "-" if share is None else f"{share:.1%}",
            *(f"{peak[kind]:.2f}" if peak else "-" for kind in ("allocated", "reserved")),
        )
        wide = [width for _, width in columns] + [8, 10]
        lines.append(f"{name:10}" + "".join(cell.rjust(n) for cell, n in zip(cells, wide, strict=True)))
    lines.append("seconds by stage: " + ", ".join(f"{k} {v:.3f}" for k, v in report["stages"].items()))
    passes = report["equality"]["passes"].items()
    off = (f"{kind} " + ", ".join(f"{how} {x:.1e}" for how, x in row.items()) for kind, row in passes)
    lines.append("passes off float32: " + "; ".join(off))
    if not report["equality"].get("agrees", True):
        lines.append("recorded passes DISAGREE with evaluated ones: do not use them here, load(..., graphs=False)")
    if report["equality"]["edits"]:
        lines.append("edits apart: " + "; ".join(f"{k} {x:.1e}" for k, x in report["equality"]["edits"].items()))
    return "\n".join(lines)
