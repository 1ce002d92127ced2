"""``bench speed --size``: seconds and memory of one edit at one size, on the hardware that a model is really used on.

"official" is the loop of the method's own code (:func:`dragonkit.evaluate.official.official_edit`) on a model as
diffusers has it. "eager" is :func:`dragonkit.edit` with every pass evaluated, "ours" the same with the passes recorded
as CUDA graphs, as a model does on a GPU, and "low" with ``memory="low"``. All of them make the same edit, one after the
other, each with the card to itself. Weights may be random: neither operations nor memory depend on them, and no picture
is looked at. That ours computes what it should is measured on the way, pass by pass, against float32.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dragonkit.editor import edit, edit_steps
from dragonkit.edits.base import Edit
from dragonkit.errors import InputError, OutOfMemoryError, one_line
from dragonkit.evaluate.card_report import compared, fits
from dragonkit.evaluate.equality import agrees, apart, equality, references
from dragonkit.evaluate.flops import Flops
from dragonkit.evaluate.official import official_edit
from dragonkit.evaluate.report import made_with
from dragonkit.evaluate.speed import check_loops
from dragonkit.graphs import Graphs
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, ddim_invert
from dragonkit.inversion.path import Path
from dragonkit.loading.place import lay_out
from dragonkit.memory import Memory, frees
from dragonkit.models import Model, load
from dragonkit.regions import SMALLEST, as_image, pad
from dragonkit.schedule import Schedule
from dragonkit.trace import Result
from dragonkit.world import counterfactual

NOMINAL = {"NVIDIA H200": {torch.float16: 989e12, torch.bfloat16: 989e12}}
"""Dense operations a second that a card's maker states, by the card's name: NVIDIA's data sheet of the H200."""


def check_card_speed(kind: str, size: int | None, repeats: int, preset: str | None, steps: int) -> None:
    """Refuse a bench that cannot be run.

    Raises:
        InputError: an unknown kind or preset, a size below 64, fewer than one step or repetition.
    """
    check_loops(kind, preset, steps, repeats=repeats)
    if size is not None and size < SMALLEST:
        raise InputError(f"size is {size}: give {SMALLEST} or more")


@frees
def bench_card_speed(
    name: str,
    size: int | None = None,
    kind: str = "move",
    repeats: int = 3,
    seed: int = 0,
    *,
    preset: str | None = None,
    steps: int = 50,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    keep: Callable[[dict[str, Any]], object] = lambda report: None,
) -> dict[str, Any]:
    """Time one edit in every way.

    Args:
        name: the model, see :func:`dragonkit.load`.
        size: height and width of the picture, in pixels; the model's own height if None.
        kind: of edit.
        repeats: how often ours makes it, after a first time that counts apart; the slower ways do a third as often.
        seed: the scene's.
        preset: guidance; the model's own if None.
        steps: DDIM steps.
        dtype: see :func:`dragonkit.load`.
        progress: whether to show a bar.
        keep: called with the report so far each time something has been measured, so that a run that is cut off leaves
            what it knows; its ``run`` then says that it is not ``complete``.

    Returns:
        What the JSON file holds. For each variant ``seconds`` (median), ``times``, ``first_call_seconds`` (what the
        first edit takes longer, at least 0: libraries load, kernels are compiled, passes recorded), ``nfe``, ``flops``,
        ``share_of_peak`` (of the matrix product measured, and of the maker's figure), ``peak_gb`` (10⁹ bytes allocated
        at most, and reserved by the allocator; none on a CPU) and how many times faster than "official" it is. Then
        ``stages``, seconds of "ours" with a wait after each; and ``equality``: of ``passes``, see
        :func:`dragonkit.evaluate.equality.equality`, whether recorded ones ``agrees`` with evaluated ones, and how far
        latents of whole ``edits`` are apart. A variant for which memory is too small has the message alone, as
        ``out_of_memory``.

    Raises:
        InputError: see :func:`check_card_speed`; or the model or the picture cannot be used.
        OutOfMemoryError: "ours" does not fit, or the model itself.
    """
    check_card_speed(kind, size, repeats, preset, steps)
    model = load(name, plain=True, dtype=dtype)
    size = size or model.size[0]
    case = counterfactual(kind, seed, split="train", size=size)
    image, task, prompt = case.before.image, case.edit, case.prompt
    w = Guidance.preset(preset or model.default_guidance, kind=kind).replace(steps=steps, one_pass=False)
    rows: dict[str, dict[str, Any]] = {}
    latents: dict[str, list[Tensor]] = {}
    run: dict[str, Any] = {
        "model": model.name,
        "kind": kind,
        "preset": preset or model.default_guidance,
        "steps": steps,
        "size": [size, size],
        "dtype": str(model.dtype).removeprefix("torch."),
        "repeats": repeats,
        "seed": seed,
        "command": f"python -m dragonkit bench speed --model {model.name} --kind {kind} --size {size} --steps {steps}"
        f" --repeats {repeats} --seed {seed} --json FILE"
        + (f" --preset {preset}" if preset else "")
        + (f" --dtype {str(dtype).removeprefix('torch.')}" if dtype else ""),
        "complete": False,
    }
    report: dict[str, Any] = {
        "variants": rows,
        "stages": {},
        "equality": {"passes": {}, "edits": {}},
        "run": run,
        "made_with": made_with() | {"hardware": _card(model), "threads": torch.get_num_threads()},
    }

    def ours(memory: Memory = "full") -> Result:
        return edit(model, image, task, prompt, guidance=w, progress=False, memory=memory)

    def official(w: Guidance = w) -> Result:
        return official_edit(model, image, task, prompt, w, "official")

    few, on_gpu = max(1, repeats // 3), model.device.type == "cuda"
    with tqdm(total=repeats + 2 + (few + 1) * (3 if on_gpu else 2), disable=not progress) as bar:

        def timed(variant: str, way: Callable[[], Result], times: int) -> None:
            bar.set_description(variant)
            try:
                rows[variant], latents[variant] = frees(_timed)(way, times, model.device, bar.update)
                bar.write(f"{variant}: {rows[variant]['seconds']:.3f} s")  # the report comes when all are done
            except OutOfMemoryError as error:
                if variant == "ours":
                    raise
                rows[variant] = {"out_of_memory": one_line(error)}
                bar.write(f"{variant}: does not fit")
            keep(compared(report))

        timed("official", official, few)
        if fits(rows["official"]):
            rows["official"]["flops"] = _flops(official, w)
        lay_out(model.unet, model.vae)  # from here on as load() gives it
        model.graphs = Graphs(model) if on_gpu else None
        timed("ours", ours, repeats)
        report["stages"] = _stages(model, image, task, prompt, w)
        passes = equality(model, image, task, prompt, w)
        report["equality"] |= {"passes": passes, "agrees": agrees(passes)}
        keep(compared(report))
        bar.update()
        if model.graphs is not None:
            model.graphs.clear()
            model.graphs = None
            timed("eager", ours, few)
            if fits(rows["eager"]):
                first, again = latents["eager"]
                one, other = latents["ours"]
                report["equality"]["edits"] = {
                    "eager, eager again": apart(again, first),
                    "recorded, recorded again": apart(other, one),
                    "recorded, eager": apart(one, first),
                }
        timed("low", lambda: ours("low"), few)
        count = _flops(lambda w: edit(model, image, task, prompt, guidance=w, progress=False), w)
    for row in filter(fits, rows.values()):
        row.setdefault("flops", count)
    run["matrix_product_flops"] = _matrix_product(model)
    run["nominal_flops"] = NOMINAL.get(_card(model), {}).get(model.dtype)
    run["complete"] = True
    return compared(report)


def _timed(
    run: Callable[[], Result], repeats: int, device: torch.device, done: Callable[[], Any]
) -> tuple[dict[str, Any], list[Tensor]]:
    """Seconds and memory of one way to edit, alone on the card; the latents of its first edit and its last."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    results = []
    for _ in range(repeats + 1):
        results.append(run())
        done()
    first, *times = [result.seconds for result in results]
    peak, seconds = None, statistics.median(times)
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        peak = {"allocated": allocated / 1e9, "reserved": reserved / 1e9}
    row = {
        "seconds": seconds,
        "times": times,
        "first_call_seconds": max(0.0, first - seconds),
        "nfe": results[0].nfe,
        "peak_gb": peak,
    }
    return row, [results[0].latent, results[-1].latent]


def _flops(run: Callable[[Guidance], Result], w: Guidance) -> int:
    """Operations of an edit: counting slows it down, so of a long one, two short ones are counted and continued.

    That is exact where the guided window ends at a multiple of a fifth of the run; else it is near.
    """
    counts = []
    for steps in (5, 10) if w.steps > 10 else (w.steps,):
        with Flops() as count:
            run(w.replace(steps=steps))
        counts.append(count.total)
    if len(counts) == 1:
        return counts[0]
    return round(counts[0] + (counts[1] - counts[0]) * (w.steps - 5) / 5)


def _stages(model: Model, image: Tensor, task: Edit, prompt: str, w: Guidance) -> dict[str, float]:
    """Where the time of an edit goes: seconds of each stage, with a wait for the device after it."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    with stage("weights"):
        model.check_weights()
    with stage("encode"):
        pixels = as_image(image)
        z0 = model.encode(pad(pixels, model.multiple)[None])
    with stage("prompts"):
        cond = model.embed(prompt, model.size_of(z0))
        model.embed("", model.size_of(z0))
    schedule = Schedule(model, w.steps)
    keep = Keep.wanted(w, schedule)
    with stage("inversion"):
        path: Path = ddim_invert(model, z0, cond, schedule, keep=keep)
        path = replace(path, size=(pixels.shape[1], pixels.shape[2]))
    if task.references:
        with stage("references"):
            path = replace(path, references=references(model, task, w, schedule, keep))
    guided, run = schedule.window(w.guided), edit_steps(model, path, task, cond, w)
    for i in range(w.steps):
        with stage("guided steps" if i in guided else "other steps"):
            z = next(run).z
    with stage("decode"):
        model.decode(z).cpu()
    return seconds


def _card(model: Model) -> str:
    """What computes."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else made_with()["hardware"]


def _matrix_product(model: Model, side: int = 8192, times: int = 20) -> float | None:
    """Operations a second of a large matrix product of random numbers in the model's dtype; None on a CPU."""
    if model.device.type != "cuda":
        return None
    a, b = (torch.randn(side, side, device=model.device, dtype=model.dtype) for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        a @ b
    begin.record()
    for _ in range(times):
        a @ b
    end.record()
    end.synchronize()
    return 2 * side**3 * times / (begin.elapsed_time(end) / 1e3)
