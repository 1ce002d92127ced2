"""A diffusers pipeline over :func:`dragonkit.edit`, for programs that are made of diffusers pipelines.

    pipe = DragonDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
    moved = pipe(image, Move(mask, by=(60, 0)), "a photo of a cat").images[0]

It loads, saves and shares components as any pipeline does, and does nothing of its own: the images are those of
:func:`dragonkit.edit`, bit for bit. On a GPU it records the denoiser's passes and replays them, as a model that
:func:`dragonkit.load` gave does.
"""

# No "from __future__ import annotations": diffusers reads the components' types off the signature.

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dragonkit.callbacks import TOLD, Callback, asked_by, call_back
from dragonkit.data import data_path
from dragonkit.editor import Step, edit
from dragonkit.edits.base import Edit
from dragonkit.edits.several import Several
from dragonkit.errors import InputError
from dragonkit.graphs import recording
from dragonkit.guidance import Guidance
from dragonkit.inversion import Inverter, ddim_invert
from dragonkit.loading.cards import CARDS, Card
from dragonkit.loading.folder import HUB_ID, explained, place_of, schedule_of, vae_dtype
from dragonkit.loading.hub import look
from dragonkit.loading.lora_pipeline import LoraLoader
from dragonkit.loading.place import device_of, lay_out
from dragonkit.loading.suits import check_pair, check_safe, check_suits, check_unet, check_vae
from dragonkit.loading.weights import check_weights
from dragonkit.memory import Memory
from dragonkit.models import Model

OUTPUTS = ("pil", "np", "pt", "latent")
_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "token")


class DragonDiffusionPipeline(DiffusionPipeline, StableDiffusionMixin, LoraLoader):
    """Edit images with Stable Diffusion 1, 2 or XL, as a diffusers pipeline.

    LoRAs are loaded, weighted, fused and unloaded as in any Stable Diffusion pipeline.

    Args:
        vae: the autoencoder.
        text_encoder: the text encoder.
        tokenizer: its tokenizer.
        unet: the denoiser, of 4 latent channels.
        scheduler: of which the noise schedule and the kind of prediction are read; the sampler is always DDIM.
        text_encoder_2: Stable Diffusion XL's second text encoder.
        tokenizer_2: its tokenizer.
        force_zeros_for_empty_prompt: with two text encoders, whether the empty prompt's embedding is zero.
        guidance: name of the preset that suits the model; default "sdxl" with two text encoders, else "iclr".

    Raises:
        InputError: the components are not those of a model that an edit can use.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2"]
    _callback_tensor_inputs = list(TOLD)

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = True,
        guidance: str | None = None,
    ) -> None:
        super().__init__()
        _check_there(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        check_unet(unet.config)
        check_vae(vae.config)
        check_pair(unet, {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2})
        if guidance is not None:
            Guidance.preset(guidance)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, guidance=guidance)
        self._model: Model | None = None
        self._record = True
        self._memory: Memory = "full"
        self._interrupt = False
        self._num_timesteps = 0
        self._guidance_scale = 1.0

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Any:
        """A pipeline from a folder or the hub, as every diffusers pipeline is loaded, but never from pickles.

        Args:
            name: a name in ``dragonkit.CARDS``, a diffusers folder or a hub id.
            options: of :meth:`diffusers.DiffusionPipeline.from_pretrained`. Of a folder that holds one variant of the
                weights, such as "fp16", that one is taken.

        Raises:
            InputError: there is no such model, it is not whole, or not one that an edit can use; or an option would
                have a pickle read or code of the model's own run.
        """
        check_safe(options)
        known = [card for card in CARDS if not card.endswith("-random")]
        if name in known:
            options = {"guidance": CARDS[str(name)].guidance, **options}
        source = data_path("mini") if name == "mini" else CARDS[str(name)].source if name in known else name
        place = place_of(source, "model name", known)
        if place.is_dir():
            check_suits(place)
            own = [part for part in ("unet", "vae", "text_encoder") if part not in options]
            if own and "variant" not in options:
                options["variant"] = check_weights(place, own[0]) or None
        elif HUB_ID.fullmatch(str(source)) and not place.exists():
            look(str(source), **{option: options[option] for option in _WHERE if option in options})
        else:
            raise InputError(
                f"no pipeline {str(name)!r}: give one of {', '.join(known)}, a diffusers folder or a hub id; "
                "from anything else that dragonkit.load takes, from_model makes one"
            )
        with explained(str(name), known):
            return super().from_pretrained(source, **{**options, "use_safetensors": True})

    @classmethod
    def from_model(cls, model: Model) -> "DragonDiffusionPipeline":
        """A pipeline over the networks of what :func:`dragonkit.load` gave, nothing copied."""
        from diffusers import DDIMScheduler

        return cls(
            **model.parts,
            tokenizer=model.tokenizer,
            tokenizer_2=model.tokenizer_2,
            scheduler=DDIMScheduler.from_config(model.schedule_config),
            force_zeros_for_empty_prompt=model.empty_is_zero,
            guidance=model.default_guidance,
        )

    @property
    def model(self) -> Model:
        """The components as :mod:`dragonkit` has them, nothing copied; the same model until a component is another.

        An autoencoder that overflows in float16 is widened to float32, as diffusers does while it decodes.

        Raises:
            InputError: a component has been removed.
        """
        needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        _check_there(**{part: getattr(self, part) for part in needed})
        two = self.text_encoder_2 is not None
        width = vae_dtype(self.vae.config, self.vae.dtype, two)
        if width != self.vae.dtype:
            torch.nn.Module.to(self.vae, width)  # diffusers' own to() warns of nothing in particular
        preset = self.config.guidance or ("sdxl" if two else "iclr")
        model = Model(
            name=str(self.config.get("_name_or_path") or type(self).__name__),
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            schedule_config=schedule_of(self.scheduler.config, two),
            card=Card(source="a pipeline", about="the components of a diffusers pipeline", guidance=preset),
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            empty_is_zero=self.config.force_zeros_for_empty_prompt,
        )
        if self._model is None or not _alike(model, self._model):
            self._model = model
        if self._record and model.device.type == "cuda" and self._model.graphs is None:
            lay_out(self.unet, self.vae)
        self._model.graphs = recording(self._model) if self._record else None
        return self._model

    def enable_graphs(self) -> None:
        """Record the denoiser's passes as CUDA graphs where there is a GPU, as is done from the start."""
        self._record = True

    def disable_graphs(self) -> None:
        """Evaluate every pass, which takes less of a GPU's memory and more time; what was recorded is forgotten."""
        self._record = False
        if self._model is not None:
            self._model.graphs = None

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: str | torch.device | None = None) -> None:
        """Take less of a GPU's memory from now on: every call has ``memory="low"`` unless it says otherwise.

        The denoiser stays on the device, and the other networks come while they compute, as with the hooks that
        diffusers would set; through those an edit could not see where its model is.

        Args:
            gpu_id: which GPU.
            device: which device, if not told so; default the GPU if there is one.

        Raises:
            InputError: it is not there.
        """
        place = device_of(device if gpu_id is None else f"cuda:{gpu_id}")
        self.remove_all_hooks()
        self.to(place)
        self._memory = "low"

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked for the end of the run, by setting ``pipe._interrupt``."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Steps of the last run."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        """Classifier-free guidance scale of the last run."""
        return self._guidance_scale

    @torch.inference_mode(False)  # under which nothing could be differentiated
    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        edit: Edit | Sequence[Edit],
        prompt: str | Sequence[str] = "",
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: str | Guidance | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        invert: Inverter = ddim_invert,
        memory: Memory | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Edit an image; see :func:`dragonkit.edit`.

        Args:
            image: a PIL image of mode RGB, a uint8 array (H, W, 3), or a float tensor (3, H, W) in [0, 1]. It may be
                a batch of one, as may the prompt and the generator.
            edit: what to do, for instance ``Move(mask, by=(40, 0))``, or several edits to do at once.
            prompt: what the image shows.
            num_inference_steps: DDIM steps; default the preset's, mostly 50.
            guidance_scale: classifier-free guidance scale; default the preset's. 1 evaluates no unconditional half.
            guidance: a preset's name, or every number of the run; default the preset that suits the model.
            generator: its initial seed is the seed of the run's noise, where there is any (regional SDE). Nothing is
                drawn from it.
            invert: how the image is inverted.
            memory: "low" takes less of a GPU's memory; default "full", or what :meth:`enable_model_cpu_offload` set.
            callback_on_step_end: called after each step of the edit, the inversion's not among them, with the pipeline,
                the step's index, its timestep and a dict of what is asked for below. In the dict that it returns,
                latents of its own replace the run's. It ends the run by setting ``pipe._interrupt = True``: the image
                is then decoded from the latents as they are.
            callback_on_step_end_tensor_inputs: what it is called with, of "latents" (1, 4, h, w) float32.
            output_type: "pil", "np" (1, H, W, 3) or "pt" (1, 3, H, W) in [0, 1], or "latent" (1, 4, h, w).
            return_dict: give an output with ``images``, or else a tuple.

        Returns:
            The edited image, one of a batch of one.

        Raises:
            InputError: anything given cannot be used.
            NonFiniteError: an energy, a gradient, a latent or the image is not finite.
        """
        image, words, generator = _single(image), _single(prompt), _single(generator)
        asked = asked_by(callback_on_step_end, callback_on_step_end_tensor_inputs)
        if output_type not in OUTPUTS:
            raise InputError(f"output_type is {output_type!r}: choose from {', '.join(map(repr, OUTPUTS))}")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError(f"generator is a {type(generator).__name__}: give a torch.Generator, or None")
        if any(hasattr(part, "_hf_hook") for part in self.components.values()):
            remedy = "call pipe.remove_all_hooks() and pipe.enable_model_cpu_offload()"
            raise InputError(f"the pipeline's parts are offloaded by hooks: {remedy}")
        model = self.model
        w = self._numbers(model, edit, guidance, num_inference_steps, guidance_scale, generator)
        self._interrupt, self._num_timesteps, self._guidance_scale = False, w.steps, w.cfg

        def shown(title: str, count: int) -> Callable[[Iterable[Any]], Iterator[Any]]:
            def loop(steps: Iterable[Any]) -> Iterator[Any]:
                with self.progress_bar(total=count) as bar:
                    bar.set_description(title)
                    for step in steps:
                        if isinstance(step, Step) and callback_on_step_end is not None:
                            call_back(callback_on_step_end, self, step, asked)
                        bar.update()
                        yield step
                        if self._interrupt and isinstance(step, Step):
                            return

            return loop

        memory = self._memory if memory is None else memory
        result = _edit(model, image, edit, words, guidance=w, invert=invert, progress=shown, memory=memory)
        if output_type == "latent":
            images: Any = result.latent
        elif output_type == "pt":
            images = result.tensor[None]
        elif output_type == "np":
            images = result.tensor.permute(1, 2, 0)[None].numpy()
        else:
            images = [result.image]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _numbers(self, model: Model, edit: Any, given: Any, steps: Any, cfg: Any, generator: Any) -> Guidance:
        """The run's guidance: the preset or the numbers given, and what was given beside."""
        if given is None or isinstance(given, str):
            task = Several(edit) if isinstance(edit, (list, tuple)) else edit
            kind = task.kind if isinstance(task, Edit) else "move"  # what is no edit is refused by dragonkit.edit
            given = Guidance.preset(given or model.default_guidance, kind)
        if not isinstance(given, Guidance):
            raise InputError(f"guidance is a {type(given).__name__}: give a preset's name or a Guidance")
        changes = {"steps": steps, "cfg": cfg}
        if generator is not None:
            changes["seed"] = generator.initial_seed() % 2**63
        return given.replace(**{name: value for name, value in changes.items() if value is not None})


def _single(given: Any) -> Any:
    """What is given, or what it holds if it is a batch of one, as other pipelines take and give."""
    batch = isinstance(given, (list, tuple)) or (isinstance(given, (Tensor, np.ndarray)) and given.ndim == 4)
    return given[0] if batch and len(given) == 1 else given


def _check_there(**parts: Any) -> None:
    for part, given in parts.items():
        if given is None:
            raise InputError(f"the pipeline has no {part}: give it one")


def _alike(a: Model, b: Model) -> bool:
    """Whether two models are the same components with the same configuration."""
    names = [field.name for field in fields(Model) if field.name != "graphs"]
    return all(getattr(a, name) == getattr(b, name) for name in names)


_edit = edit  # by another name where ``edit`` is what to do
