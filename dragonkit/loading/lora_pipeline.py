"""LoRAs of a pipeline, which stay apart from its weights until they are fused: those of one family or the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

from dragonkit.errors import InputError, one_line
from dragonkit.loading.folder import quiet
from dragonkit.loading.suits import check_safe


class LoraLoader(StableDiffusionXLLoraLoaderMixin):
    """What any Stable Diffusion pipeline does with LoRAs, be it of one text encoder or of two."""

    def load_lora_weights(self, source: Any, adapter_name: str | None = None, **options: Any) -> None:
        """Load a LoRA; see :meth:`diffusers.loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`.

        Args:
            source: a folder, a file, a hub id, or the tensors by name.
            adapter_name: what it is to be called, for instance by ``set_adapters``.
            options: of diffusers' method, such as ``weight_name``.

        Raises:
            InputError: there is no such LoRA, or it was made for another model; the pipeline is as it was.
        """
        one = StableDiffusionLoraLoaderMixin.load_lora_weights
        two = StableDiffusionXLLoraLoaderMixin.load_lora_weights
        check_safe(options)
        before = self.get_list_adapters()
        try:
            with quiet():
                load = one if self.text_encoder_2 is None else two
                load(self, source, adapter_name, **{**options, "use_safetensors": True})  # or it would read pickles
        except Exception as error:  # of diffusers, of peft, of torch: whichever notices first that it does not fit
            if not before:
                self.unload_lora_weights()  # the layers that were added for it
            name = str(source) if isinstance(source, (str, Path)) else f"a {type(source).__name__}"
            raise InputError(f"{name!r} is no LoRA for this pipeline ({one_line(error, 160)})") from error
