"""From edits to a spec folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonkit.edits import Drag
from dragonkit.errors import InputError
from dragonkit.files import MAX_SIDE, whole_folder, write_image
from dragonkit.generation import Generated
from dragonkit.guidance import Guidance
from dragonkit.models import Model
from dragonkit.regions import as_image
from dragonkit.spec.edits import Put, edit_spec, flat
from dragonkit.spec.fields import GenerateSpec, GuidanceSpec, ImageSpec, Seeded, Spec, TruthSpec
from dragonkit.spec.read import Truth

if TYPE_CHECKING:
    from torch import Tensor

    from dragonkit.world import Counterfactual


def save_spec(
    folder: str | Path,
    image: Any,
    edits: Any,
    prompt: str | None = None,
    guidance: Guidance | GuidanceSpec | None = None,
    model: Model | str = "mini",
    truth: Truth | None = None,
) -> Path:
    """Write edits as a spec folder: edit.json, and as PNG every picture it names. `load_task` gives the same edits.

    Args:
        folder: where; files of the same names are replaced.
        image: what to edit, see :func:`dragonkit.regions.as_image` (rounded to 8 bits), or what ``model.generate``
            gave, of which prompt, seed and size are written.
        edits: one edit or a list.
        prompt: what the image shows; default '', or what it was generated from.
        guidance: a :class:`Guidance`, of which every field is written, or what to write; default the model's preset.
        model: the model or its name.
        truth: the exact answer.

    Returns:
        The path of edit.json.

    Raises:
        InputError: an edit cannot be written, a mask or the truth is not of the image's size, or a side has more than
            ``MAX_SIDE`` pixels.
    """
    simple, generated = flat(edits), image if isinstance(image, Generated) else None
    pixels = generated.tensor if generated else as_image(image)
    for name, picture in _pictures(pixels, simple, truth):
        if picture.shape[-2:] != pixels.shape[-2:]:
            size, wanted = f"{picture.shape[-1]}x{picture.shape[-2]}", f"{pixels.shape[-1]}x{pixels.shape[-2]}"
            raise InputError(f"{name} is {size} but the image is {wanted}: give it in the image's size")
    said = GuidanceSpec.of(guidance) if isinstance(guidance, Guidance) else guidance or GuidanceSpec()
    if generated:
        said = _as_long(said, len(generated.path.schedule))
    fields: dict[str, Any] = {"version": 2, "model": model.name if isinstance(model, Model) else model}
    if prompt is not None:
        fields["prompt"] = prompt
    with whole_folder(Path(folder)) as draft:
        source: ImageSpec = _put(draft)("before", pixels) if not generated else _generated(generated)
        described: tuple[Any, ...] = tuple(edit_spec(edit, _put(draft, k)) for k, edit in enumerate(simple, start=1))
        if truth:
            put = _put(draft)
            known = put("object", truth.source) if truth.source is not None else None
            fields["truth"] = TruthSpec(image=put("after", truth.image), mask=put("target", truth.mask), source=known)
        spec = Spec(image=source, edits=described, guidance=said, **fields)
        text = json.dumps(spec.model_dump(mode="json", exclude_unset=True, exclude_none=True), indent=1)
        (draft / "edit.json").write_text(text + "\n", encoding="utf-8")
    return Path(folder) / "edit.json"


def save_case(case: Counterfactual, out: Path, guidance: GuidanceSpec | None = None) -> Path:
    """Write a case of the bundled world, of any kind, as a spec folder.

    Args:
        case: what `dragonkit.world.counterfactual` returned.
        out: the folder; files of the same names are replaced.
        guidance: written into the spec; the preset "mini" if None.

    Returns:
        The path of edit.json.
    """
    edit = case.edit
    source = case.mask if isinstance(edit, Drag) else None  # the others' own mask is the object
    truth = Truth(case.after.image, case.target, source)
    said = guidance or GuidanceSpec(preset="mini")
    return save_spec(out, case.before.image, edit, case.prompt, said, truth=truth)


def _pictures(image: Tensor, edits: tuple[Any, ...], truth: Truth | None) -> list[tuple[str, Tensor]]:
    """Everything that must be as large as the image, by name."""
    found = [("image", image)]
    for edit in edits:
        if getattr(edit, "mask", None) is not None:
            found.append(("mask", edit.mask))
    if truth:
        found += [("the truth's image", truth.image), ("the truth's mask", truth.mask)]
        found += [("the truth's source", truth.source)] if truth.source is not None else []
    return found


def _put(folder: Path, number: int = 1) -> Put:
    """Writes mask.png and so on; the pictures of a second edit are mask-2.png and so on."""

    def put(name: str, picture: Tensor) -> str:
        if max(picture.shape[-2:]) > MAX_SIDE:
            size = f"{picture.shape[-1]}x{picture.shape[-2]}"
            raise InputError(f"{name} is {size} pixels, more than {MAX_SIDE} on a side: scale it down")
        file = f"{name}.png" if number == 1 else f"{name}-{number}.png"
        write_image(picture, folder / file)
        return file

    return put


def _as_long(said: GuidanceSpec, steps: int) -> GuidanceSpec:
    """A guidance of as many steps as an image was generated in."""
    fields = said.model_dump(mode="json", exclude_unset=True)
    if fields.setdefault("steps", steps) != steps:
        raise InputError(
            f"the image was generated in {steps} steps and guidance has {fields['steps']}: make them equal"
        )
    return GuidanceSpec.model_validate_json(json.dumps(fields))


def _generated(image: Generated) -> GenerateSpec:
    height, width = image.tensor.shape[1:]
    return GenerateSpec(generate=Seeded(prompt=image.prompt, seed=image.seed, cfg=image.cfg, size=(height, width)))
