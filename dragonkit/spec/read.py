"""From a spec file to what the editor needs."""

from __future__ import annotations

import codecs
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ConfigDict, ValidationError

from dragonkit.edits import Edit, Several
from dragonkit.errors import InputError
from dragonkit.files import read_image, read_mask
from dragonkit.guidance import Guidance
from dragonkit.models import CARDS, Card
from dragonkit.regions import as_image
from dragonkit.spec.fields import VERSIONS, GenerateSpec, Spec
from dragonkit.strict import Strict, one_line

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dragonkit.generation import Generated
    from dragonkit.models import Model


@dataclass(frozen=True)
class Truth:
    """The exact answer to an edit.

    Args:
        image: (3, H, W) in [0, 1].
        mask: bool (H, W), the object in it.
        source: bool (H, W), the object in the source image, if that was given.
    """

    image: Tensor
    mask: Tensor
    source: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """A spec with its pictures read and its edits built: all that ``load`` and ``edit`` need.

    Args:
        spec: the file as data, in the present version.
        model: what to ``load``.
        image: the picture to edit, or how to generate it; :meth:`ready` does.
        prompt: what it shows.
        edits: what to do, at once.
        guidance: how. Where the spec names no preset, :meth:`ready` takes the one that suits the model.
        truth: the exact answer, if it is known.
    """

    spec: Spec
    model: str
    image: Image.Image | Generated | GenerateSpec
    prompt: str
    edits: tuple[Edit, ...]
    guidance: Guidance
    truth: Truth | None

    @property
    def edit(self) -> Edit:
        """The edits as one."""
        return self.edits[0] if len(self.edits) == 1 else Several(self.edits)

    @property
    def mask(self) -> Tensor | None:
        """The objects in the source image, bool (H, W), as far as truth or edits say."""
        if self.truth and self.truth.source is not None:
            return self.truth.source
        masks = [m for m in (getattr(edit, "mask", None) for edit in self.edits) if m is not None]
        return torch.stack(masks).any(0) if masks else None

    def ready(self, model: Model) -> Task:
        """The same, guided as suits the model unless the spec says, and with its image generated if it is made so.

        Raises:
            InputError: it cannot be generated so, or the truth is of another size.
        """
        w = _guidance(self.spec, self.edits, model.default_guidance)
        if not isinstance(self.image, GenerateSpec):
            return dataclasses.replace(self, guidance=w)
        wanted = self.image.generate
        image = model.generate(wanted.prompt, wanted.seed, steps=w.steps, cfg=wanted.cfg, size=wanted.size)
        return _fitting(dataclasses.replace(self, image=image, guidance=w), Path())

    @property
    def picture(self) -> Image.Image:
        """The image to edit, as a picture.

        Raises:
            InputError: it has not been generated yet.
        """
        if isinstance(self.image, GenerateSpec):
            raise InputError("the image has not been generated yet: take task.ready(model)")
        generated = getattr(self.image, "image", None)
        return self.image if generated is None else generated  # type: ignore[return-value]


class _Head(Strict):
    model_config = ConfigDict(extra="ignore")

    version: int


def parse(text: str | bytes) -> Spec:
    """Validate a spec, and bring it to the present version.

    Raises:
        InputError: it is not JSON, is of a version that is not known, or a field is unknown, missing, of a wrong type
            or out of range.
    """
    text = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    text = text.removeprefix(codecs.BOM_UTF8)  # which some editors begin a file with
    model: type[Strict] = _Head
    try:
        version = _Head.model_validate_json(text).version
        if version not in VERSIONS:
            newest = max(VERSIONS)
            advice = "update dragonkit" if version > newest else f"give a number from 1 to {newest}"
            raise InputError(f"version is {version}, and this dragonkit reads 1 to {newest}: {advice}")
        model = VERSIONS[version]
        spec = VERSIONS[version].model_validate_json(text)
    except ValidationError as error:
        raise InputError(one_line(error, model)) from None
    while not isinstance(spec, Spec):
        spec = spec.migrated()
    return spec


def read_spec(path: Path) -> Spec:
    """Read and validate a spec file, without opening its pictures.

    Raises:
        InputError: the file is missing, or :func:`parse` refuses it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a spec, a JSON file") from None
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def load_task(path: str | Path) -> Task:
    """Read a spec file with everything it names except the model.

    Raises:
        InputError: as `read_spec`, or a picture is missing, broken or of a wrong mode or size.
    """
    return read_task(read_spec(Path(path)), Path(path).parent)


def read_task(spec: Spec, folder: Path) -> Task:
    """Read everything that a spec names except the model, relative to a folder.

    Raises:
        InputError: a picture is missing, broken or of a wrong mode or size.
    """
    generated = None if isinstance(spec.image, str) else spec.image.generate
    image = read_image(folder / spec.image) if isinstance(spec.image, str) else spec.image
    edits = tuple(edit.build(folder) for edit in spec.edits)
    task = Task(
        spec=spec,
        model=model_of(spec, folder),
        image=image,
        prompt=generated.prompt if generated and "prompt" not in spec.model_fields_set else spec.prompt,
        edits=edits,
        guidance=_guidance(spec, edits, CARDS.get(spec.model, Card).guidance),
        truth=_truth(spec, folder),
    )
    return _fitting(task, folder)


def _guidance(spec: Spec, edits: tuple[Edit, ...], default: str) -> Guidance:
    """How a spec's edits are guided: by the preset that it names or else the default one, and the fields it changes."""
    base = {} if isinstance(spec.image, str) else {"cfg": spec.image.generate.cfg}
    return spec.guidance.build(Several(edits).kind, default, **base)


def model_of(spec: Spec, folder: Path) -> str:
    """What to ``load``: "./weights" is a place, found from the spec like every other path; "owner/name" is a name."""
    return str(folder / spec.model) if spec.model.startswith(("./", "../")) else spec.model


def _truth(spec: Spec, folder: Path) -> Truth | None:
    if not spec.truth:
        return None
    source = read_mask(folder / spec.truth.source) if spec.truth.source is not None else None
    return Truth(as_image(read_image(folder / spec.truth.image)), read_mask(folder / spec.truth.mask), source)


def _fitting(task: Task, folder: Path) -> Task:
    """The task, its truth as large as its image."""
    spec, truth = task.spec.truth, task.truth
    if spec and truth and not isinstance(task.image, GenerateSpec):
        width, height = task.picture.size
        for name, pixels in ((spec.image, truth.image), (spec.mask, truth.mask), (spec.source, truth.source)):
            if pixels is not None and tuple(pixels.shape[-2:]) != (height, width):
                raise InputError(
                    f"{folder / str(name)} is {pixels.shape[-1]}x{pixels.shape[-2]}, the image {width}x{height}: "
                    "give the truth in the image's size"
                )
    return task
