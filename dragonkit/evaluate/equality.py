"""How far a pass in half precision is from the same one in float32, evaluated and recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dragonkit.attention import looking, mixing
from dragonkit.edits.base import Edit
from dragonkit.generation import denoising
from dragonkit.gradient import frame_of
from dragonkit.guidance import Guidance
from dragonkit.inversion import Keep, Path, ddim_invert
from dragonkit.models import Model
from dragonkit.passes import evaluate, separate
from dragonkit.regions import as_image, pad
from dragonkit.schedule import Schedule

ROUNDING = 1e-4  # what the order of float32's sums makes of a whole pass


def equality(
    model: Model, image: Tensor, task: Edit, prompt: str, w: Guidance, steps: Sequence[float] = (0.0, 0.2, 0.4, 0.6)
) -> dict[str, dict[str, float]]:
    """How far recorded and evaluated passes are from float32.

    Args:
        model: with or without ``graphs``.
        image: (3, H, W) in [0, 1].
        task: the edit.
        prompt: what the image shows.
        w: how.
        steps: fractions of the run at which passes are compared.

    Returns:
        By kind of pass, ‖x - r‖ / ‖r‖ against the same pass in float32 without TF32, the largest over the steps, as
        "eager" and "recorded": ε of the guidance branch ("inversion"), ε under classifier-free guidance with attention
        rewired ("noise"), and two vector-Jacobian products of the features ("gradient"). The last two are asked for as
        an edit does, so that recorded ones are replayed beside each other.
    """
    graphs, model.graphs = model.graphs, None
    schedule = Schedule(model, w.steps)
    keep = Keep.wanted(w, schedule)
    path = inverted(model, image, prompt, schedule, keep)
    path, cond = replace(path, references=references(model, task, w, schedule, keep)), path.cond
    exact = replace(model, unet=copy.deepcopy(model.unet).float(), graphs=None)
    m = task.regions(frame_of(model, path)).to(model.device)
    mix, empty = mixing(task, m, w), path.unconditional(model, w.cfg)

    def passes(model: Model, i: int, slopes: list[Tensor]) -> dict[str, Tensor]:
        words, nothing = ({k: x.float() if model is exact else x for k, x in c.items()} for c in (cond, empty[i]))
        z, t, layers = path.inputs[i], schedule.timesteps[i], tuple(sorted(w.layers))
        look = looking(model, path, mix, i, w) if i in path.tokens else None
        inversion = evaluate(model, z, t, words, tokens=True, layers=layers).eps
        noise = denoising(model, z, t, words, nothing, w.cfg, look)
        gradient = torch.cat(separate(model, z, t, words, layers).pull([slopes, [x.flip(-1) for x in slopes]]))
        return {"inversion": inversion, "noise": noise(), "gradient": gradient}

    found: dict[str, dict[str, float]] = {}
    for i in sorted({min(round(f * w.steps), w.steps - 1) for f in steps}):
        features = path.features_at(model, i, tuple(sorted(w.layers)))
        slopes = [x.float() / x.float().norm() for x in features.values()]  # any will do, the same for all
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            right = passes(exact, i, slopes)
        for how, recorder in {"eager": None, **({} if graphs is None else {"recorded": graphs})}.items():
            model.graphs = recorder
            for kind, x in passes(model, i, slopes).items():
                row = found.setdefault(kind, {})
                row[how] = max(row.get(how, 0.0), apart(x, right[kind]))
    model.graphs = graphs
    return found


def agrees(passes: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether recorded passes are as near to float32 as evaluated ones, within a factor of two and float32's rounding.

    Args:
        passes: what :func:`equality` found. Where nothing is recorded, there is nothing to disagree.
    """
    return all(row.get("recorded", 0.0) <= 2 * row["eager"] + ROUNDING for row in passes.values())


def inverted(model: Model, image: Tensor, prompt: str, schedule: Schedule, keep: Keep) -> Path:
    """The path of an image of any size."""
    pixels = as_image(image)
    z0 = model.encode(pad(pixels, model.multiple)[None])
    path = ddim_invert(model, z0, model.embed(prompt, model.size_of(z0)), schedule, keep=keep)
    return replace(path, size=(pixels.shape[1], pixels.shape[2]))


def references(model: Model, task: Edit, w: Guidance, schedule: Schedule, keep: Keep) -> tuple[Path, ...]:
    """The paths of an edit's reference images."""
    keep = keep if w.attention_mode == "mix" else replace(keep, tokens=range(0))
    return tuple(inverted(model, ref.image, ref.prompt, schedule, keep) for ref in task.references)


def apart(x: Tensor, right: Tensor) -> float:
    """‖x - r‖ / ‖r‖, in float64."""
    return ((x.double() - right.double()).norm() / right.double().norm()).item()
