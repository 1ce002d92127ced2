"""Models: an autoencoder, a text encoder and a denoiser in the ordinary diffusers folder layout.

What differs between models is settled here, in :class:`Model` and its :class:`Card`; samplers never ask which one they
hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dragonkit.errors import InputError, NonFiniteError
from dragonkit.schedule import alphas_cumprod
from dragonkit.weights import explained, find, read

if TYPE_CHECKING:
    from dragonkit.generation import Generated

Cond = dict[str, Tensor]
"""Keyword arguments that condition the U-Net: ``encoder_hidden_states`` (B, tokens, width)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a model beside its weights.

    Args:
        source: the hub id or the folder that it is loaded from.
        about: one line.
        licence: of the weights.
        guidance: name of the preset that suits it.
    """

    source: str
    about: str
    licence: str = "unknown"
    guidance: str = "iclr"


CARDS = {
    "mini": Card(
        source="mini",
        about="bundled: 256 px, trained on dragonkit.world",
        licence="Apache-2.0",
        guidance="mini",
    ),
    "sd15": Card(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        about="Stable Diffusion 1.5, 512 px",
        licence="CreativeML OpenRAIL-M",
    ),
    "sd21": Card(
        source="stabilityai/stable-diffusion-2-1-base",
        about="Stable Diffusion 2.1 base, 512 px",
        licence="CreativeML OpenRAIL++-M",
    ),
}


@dataclass(eq=False)
class Model:
    """A latent diffusion model, frozen, in evaluation mode.

    Latents are float32 (B, C, h, w) whatever the weights' dtype; ``factor`` image pixels make one latent cell.
    """

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule_config: dict[str, Any]
    card: Card = field(default_factory=lambda: Card(source="memory", about="built by hand"))

    def __post_init__(self) -> None:
        for part in self.parts.values():
            part.eval().requires_grad_(False)
        self._alphas = alphas_cumprod(self.schedule_config)
        self._v = self.schedule_config.get("prediction_type", "epsilon") == "v_prediction"
        if not self._v and self.schedule_config.get("prediction_type", "epsilon") != "epsilon":
            kind = self.schedule_config["prediction_type"]
            raise InputError(f"prediction_type {kind!r} is not known: use a model of 'epsilon' or 'v_prediction'")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The three networks by the name of their folder."""
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        return next(self.unet.parameters()).dtype

    @property
    def default_guidance(self) -> str:
        """Name of the guidance preset that suits this model."""
        return self.card.guidance

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def multiple(self) -> int:
        """Image sizes must be multiples of this: ``factor`` times the U-Net's own, 64 for Stable Diffusion."""
        return self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def embed(self, prompt: str) -> Cond:
        """Encode a prompt.

        Args:
            prompt: any text; what is longer than the text encoder's window is cut.

        Returns:
            Keyword arguments for the U-Net, batch 1.
        """
        window = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        words = self.tokenizer(
            [prompt], padding="max_length", max_length=window, truncation=True, return_tensors="pt"
        )  # padded to the window, as in training
        hidden = self.text_encoder(words.input_ids.to(self.text_encoder.device))[0]
        return {"encoder_hidden_states": hidden.to(self.device, self.dtype)}

    def predict(self, z: Tensor, t: int, cond: Cond) -> Tensor:
        """The noise ε_θ(z_t, t) that the denoiser sees.

        Args:
            z: (B, C, h, w) at timestep t.
            t: training timestep, 0 to 999.
            cond: what :meth:`embed` gave; its batch is B.

        Returns:
            ε, float32 (B, C, h, w); a v-prediction v is converted: ε = √ᾱ v + √(1-ᾱ) z.
        """
        out = self.unet(z.to(self.dtype), t, **cond, return_dict=False)[0].float()
        if self._v:
            a = self._alphas[t]
            out = a**0.5 * out + (1 - a) ** 0.5 * z
        return out

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Image to latent (the mean of the autoencoder's posterior, so no noise enters).

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of ``multiple``.

        Returns:
            Float32 (B, C, H / factor, W / factor), scaled to about unit variance.

        Raises:
            NonFiniteError: the autoencoder overflowed, as some do in half precision.
        """
        x = (image.to(self.device) * 2 - 1).to(next(self.vae.parameters()).dtype)
        z = self.vae.encode(x).latent_dist.mean.float() * self.vae.config.scaling_factor
        return _finite(z, "the image's latent", "load the model in a wider dtype")

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latent to image: (B, C, h, w) to float32 (B, 3, h · factor, w · factor), clamped to [0, 1].

        Raises:
            NonFiniteError: the autoencoder overflowed: the latent is far out, or the precision too low.
        """
        z = (z / self.vae.config.scaling_factor).to(next(self.vae.parameters()).dtype)
        image = self.vae.decode(z).sample.float() / 2 + 0.5
        return _finite(image, "the decoded image", "lower cfg or the energy, or load the model in a wider dtype").clamp(
            0, 1
        )

    def generate(self, prompt: str, seed: int = 0, **options: Any) -> Generated:
        """Generate an image, with its exact noise and path; see :func:`dragonkit.generation.generate`."""
        from dragonkit.generation import generate

        return generate(self, prompt, seed, **options)

    def check_weights(self) -> None:
        """Raise an InputError that names the first tensor with a NaN or an infinity in it."""
        named = [(f"{part}/{name}", p) for part, net in self.parts.items() for name, p in net.state_dict().items()]
        named = [(name, p) for name, p in named if p.is_floating_point()]
        device = self.device
        finite = torch.stack([p.isfinite().all().to(device) for _, p in named])
        if not finite.all():  # one synchronisation for all of them
            broken = next(name for (name, _), ok in zip(named, finite.tolist(), strict=True) if not ok)
            raise InputError(f"weights of {self.name!r}: {broken} holds NaN or infinity; fetch the model again")


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What a model may compute in."""


def load(name: str = "mini", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Model:
    """Load a model; only safetensors, no code from the model's folder, no network unless the hub is named.

    Every edit works in each of ``DTYPES``, on a CPU too: latents, energies and their gradients are float32 in any case.
    There bfloat16 takes about as long as float32, less where the processor has instructions for it, and float16 several
    times as long: its use on a CPU is to see what a GPU will compute. The fewer bits, the further an edit strays from
    what float32 gives: by rounding alone in float16 (11 bits), visibly at times in bfloat16 (8 bits).

    Args:
        name: a name in ``CARDS`` ("mini" is bundled), a diffusers folder, or a hub id "owner/name".
        device: default the GPU if there is one.
        dtype: one of ``DTYPES``; default float32 on a CPU (stored half precision is widened), float16 on a GPU.

    Raises:
        InputError: nothing of that name, or its weights are missing, truncated or not finite; or there is no such
            device, or the dtype is another.
    """
    if not isinstance(name, (str, Path)):
        raise InputError(f"model name is {name!r}: give a text, one of {', '.join(CARDS)}, a folder or 'owner/name'")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: choose from {', '.join(map(str, DTYPES))}")
    place = _device(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.float16)
    card = CARDS.get(str(name)) or Card(source=str(name), about="given by the user")
    folder = find(card.source, CARDS)
    with explained(str(name), CARDS):
        parts = read(folder, dtype)
    model = Model(name=str(name), card=card, **parts)
    model.check_weights()
    for part in model.parts.values():
        part.to(place)
    if place.type == "cpu":
        for part in (model.unet, model.vae):
            part.to(memory_format=torch.channels_last)  # somewhat faster there; in float16, twenty times
    return model


def _device(device: str | torch.device | None) -> torch.device:
    """The device meant, which is there and can hold numbers."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises each of them, for one reason or another
        there = ["'cpu'", *(f"'cuda:{k}'" for k in range(torch.cuda.device_count()))]
        raise InputError(f"device is {device!r}, which is not there: choose from {', '.join(there)}") from error
    return place


def _finite(x: Tensor, name: str, remedy: str) -> Tensor:
    """``x`` itself; raises a NonFiniteError unless all of it is finite."""
    if not x.isfinite().all():
        raise NonFiniteError(f"{name} is not finite: {remedy}")
    return x
