"""Models: an autoencoder, a text encoder and a denoiser in the ordinary diffusers folder layout.

What differs between models is settled here, in :class:`Model` and its :class:`Card`; samplers never ask which one they
hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dragonkit.checks import check_text
from dragonkit.errors import InputError, NonFiniteError
from dragonkit.fused import fused
from dragonkit.loading.cards import CARDS as CARDS
from dragonkit.loading.cards import Card as Card
from dragonkit.loading.cards import card_of
from dragonkit.loading.place import DTYPES as DTYPES
from dragonkit.loading.place import device_of, dtype_of, lay_out
from dragonkit.loading.sources import read_any
from dragonkit.schedule import alphas_cumprod, spaced
from dragonkit.text import Cond as Cond
from dragonkit.text import arguments, embed_one, embed_two

if TYPE_CHECKING:
    from dragonkit.generation import Generated
    from dragonkit.graphs import Graphs


@dataclass(eq=False)
class Model:
    """A latent diffusion model, frozen, in evaluation mode.

    Latents are float32 (B, C, h, w) whatever the weights' dtype; ``factor`` image pixels make one latent cell.

    Args:
        name: what it was loaded as.
        unet: the denoiser.
        vae: the autoencoder.
        text_encoder: CLIP's or OpenCLIP's.
        tokenizer: its tokenizer.
        schedule_config: of a diffusers scheduler, of which the noise schedule and the kind of prediction are read.
        card: what else is known of it.
        text_encoder_2: Stable Diffusion XL's second text encoder, with a projection.
        tokenizer_2: its tokenizer.
        empty_is_zero: with two text encoders, whether the empty prompt's embedding is zero.
        graphs: what records the denoiser's passes and replays them, where there is a GPU; None evaluates every pass.

    Raises:
        InputError: the noise schedule or the kind of prediction is not known.
    """

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule_config: dict[str, Any]
    card: Card = field(default_factory=lambda: Card(source="memory", about="built by hand"))
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    empty_is_zero: bool = True
    graphs: Graphs | None = None

    def __post_init__(self) -> None:
        for part in self.parts.values():
            part.eval().requires_grad_(False)
        self._alphas = alphas_cumprod(self.schedule_config)
        spaced(self.schedule_config, 1)
        self._kind = self.schedule_config.get("prediction_type", "epsilon")
        if self._kind not in ("epsilon", "v_prediction", "sample"):
            raise InputError(
                f"prediction_type {self._kind!r} is not known: use a model of 'epsilon', 'v_prediction' or 'sample'"
            )
        if self.schedule_config.get("rescale_betas_zero_snr") and self._kind == "epsilon":
            raise InputError("rescale_betas_zero_snr wants 'v_prediction': noise alone does not say what ε leaves over")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by the name of their folder: three, or four with Stable Diffusion XL's second text encoder."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        return parts if self.text_encoder_2 is None else {**parts, "text_encoder_2": self.text_encoder_2}

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.unet.parameters()).device

    def current(self) -> AbstractContextManager[None]:
        """Make the model's GPU the current one inside the block: not everything asks tensors where they are."""
        return torch.cuda.device_of(next(self.unet.parameters()))

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
        """Image sizes must be multiples of this: ``factor`` times the U-Net's own, in all 64; 32 for SDXL."""
        return self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that it was trained on."""
        cells = self.unet.config.sample_size or (64 if self.text_encoder_2 is None else 128)  # if untold, as diffusers
        h, w = (cells, cells) if isinstance(cells, int) else cells
        return h * self.factor, w * self.factor

    def size_of(self, z: Tensor) -> tuple[int, int]:
        """(height, width) in pixels of the image of a latent (B, C, h, w)."""
        return z.shape[-2] * self.factor, z.shape[-1] * self.factor

    @torch.no_grad()
    def embed(self, prompt: str, size: tuple[int, int] | None = None) -> Cond:
        """Encode a prompt.

        Args:
            prompt: any text; what is longer than the text encoder's window is cut.
            size: (height, width) in pixels of the image to come, which Stable Diffusion XL is told; others do not ask.
                Default the model's own.

        Returns:
            What conditions the U-Net, batch 1.

        Raises:
            InputError: the prompt is no text, or the tokenizer is not the text encoder's.
        """
        check_text("prompt", prompt)
        if self.text_encoder_2 is None:
            cond = embed_one(self.tokenizer, self.text_encoder, prompt)
        else:
            pairs = ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2))
            cond = embed_two(pairs, prompt, size or self.size, zeros=self.empty_is_zero)
        return {k: x.to(self.device, torch.float32 if k == "time_ids" else self.dtype) for k, x in cond.items()}

    def predict(self, z: Tensor, t: int, cond: Cond) -> Tensor:
        """The noise ε_θ(z_t, t) that the denoiser sees.

        Args:
            z: (B, C, h, w) at timestep t.
            t: training timestep, 0 to 999.
            cond: what :meth:`embed` gave; its batch is B.

        Returns:
            ε, float32 (B, C, h, w); a v-prediction v is converted: ε = √ᾱ v + √(1-ᾱ) z, and a clean latent x0:
            ε = (z - √ᾱ x0) / √(1-ᾱ).
        """
        return self.noise(self.unet(z.to(self.dtype), t, **arguments(cond), return_dict=False)[0], z, t)

    def noise(self, out: Tensor, z: Tensor, t: int) -> Tensor:
        """ε, float32, from what the U-Net gave at (z, t): that itself, a v-prediction, or a clean latent."""
        if self._kind == "epsilon":
            return out.float()
        a = self._alphas[t]
        if self._kind == "sample":
            return (z - a**0.5 * out.float()) / (1 - a) ** 0.5
        return a**0.5 * out.float() + (1 - a) ** 0.5 * z

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
        with fused(x.device.type):
            z = self.vae.encode(x).latent_dist.mean.float() * self.vae.config.scaling_factor
        return _finite(z, "the image's latent", "load the model in a wider dtype")

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latent to image: (B, C, h, w) to float32 (B, 3, h · factor, w · factor), clamped to [0, 1].

        Raises:
            NonFiniteError: the autoencoder overflowed: the latent is far out, or the precision too low.
        """
        z = (z / self.vae.config.scaling_factor).to(next(self.vae.parameters()).dtype)
        with fused(z.device.type):
            image = self.vae.decode(z).sample.float() / 2 + 0.5
        return _finite(image, "the decoded image", "lower cfg or the energy, or load the model in a wider dtype").clamp(
            0, 1
        )

    def generate(self, prompt: str, seed: int = 0, **options: Any) -> Generated:
        """Generate an image, with its exact noise and path; see :func:`dragonkit.generation.generate`."""
        from dragonkit.generation import generate
        from dragonkit.memory import frees

        return frees(generate)(self, prompt, seed, **options)

    def load_lora(self, source: str | Path, scale: float = 1.0) -> None:
        """Fuse a LoRA into the weights; see :func:`dragonkit.loading.lora.fuse`. Several may be fused one by one.

        Nothing is left of it but other weights, so features and attention are tapped as ever; to be rid of it, load the
        model again.

        Args:
            source: a .safetensors file of any layout that diffusers loads, a folder that holds one, or a hub id.
            scale: its strength; 0 leaves the model as it is, and a negative one goes the other way.

        Raises:
            InputError: there is no such LoRA, it is a pickle or damaged, or it was made for another model.
        """
        from dragonkit.loading.lora import fuse

        fuse(self, source, scale)

    def check_weights(self) -> None:
        """Raise an InputError that names the first tensor with a NaN or an infinity in it."""
        self.checking_weights()()

    def checking_weights(self) -> Callable[[], None]:
        """:meth:`check_weights`, begun where a GPU can do it beside what comes next; call the result to wait for it."""
        weights = [p for net in self.parts.values() for p in (*net.parameters(), *net.buffers())]
        kinds = defaultdict(list)
        for p in weights:
            if p.is_floating_point() and p.numel():
                kinds[p.device, p.dtype].append(p)
        largest = [torch.stack(torch._foreach_norm(some, torch.inf)).amax() for some in kinds.values()]  # NaN comes out
        sound = torch.stack([x.to(self.device, torch.float32) for x in largest]).isfinite().all()

        def end() -> None:
            if not sound:  # one synchronisation
                state = {part: net.state_dict().items() for part, net in self.parts.items()}
                named = ((f"{part}/{name}", p) for part, tensors in state.items() for name, p in tensors)
                broken = next((name for name, p in named if not p.isfinite().all()), "a buffer")
                raise InputError(f"weights of {self.name!r}: {broken} holds NaN or infinity; fetch the model again")

        return end


def load(
    name: str | Path = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    vae: str | Path | None = None,
    lora: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    graphs: bool | None = None,
    plain: bool = False,
) -> Model:
    """Load a model; only safetensors, no code from the model's folder, no network unless the hub is named.

    Every edit works in each of ``DTYPES``, on a CPU too: latents, energies and their gradients are float32 in any case.
    There bfloat16 takes about as long as float32, less where the processor has instructions for it, and float16 several
    times as long: its use on a CPU is to see what a GPU will compute. The fewer bits, the further an edit strays from
    what float32 gives: by rounding alone in float16 (11 bits), visibly at times in bfloat16 (8 bits). Stable Diffusion
    XL's autoencoder overflows in float16 and stays in float32, unless its configuration says that it need not.

    Args:
        name: a name in ``CARDS`` ("mini" is bundled; "sd15-random" and its like have random weights, to measure), a
            diffusers folder, a hub id "owner/name", or one .safetensors file in the original layout.
            What is on the hub is looked for in the local cache first, and downloaded only if it is not there.
        device: default the GPU if there is one.
        dtype: one of ``DTYPES``; default float32 on a CPU (stored half precision is widened), float16 on a GPU.
        vae: an autoencoder to use instead of the model's own: its folder, a model's folder, a .safetensors file, or a
            hub id, for instance "madebyollin/sdxl-vae-fp16-fix", which stays finite in float16.
        lora: a LoRA to fuse at full strength, see :meth:`Model.load_lora`.
        config: for a single file: a name in ``CARDS``, a diffusers folder or a hub id whose configuration it has;
            default what the file's tensors look like.
        tokenizer: for a single file: a diffusers folder, a tokenizer's folder or a hub id with the vocabulary, which
            the file does not hold; default the local cache's, if it has one.
        graphs: record the denoiser's passes as CUDA graphs and replay them, which takes some memory and, at the first
            edit of each size, some seconds; see :mod:`dragonkit.graphs`. Default on a CUDA device, and only there.
        plain: leave weights and blocks as diffusers has them, and record nothing: slower, to compare with, or to
            compile: ``model.unet.compile_repeated_blocks()``. Compiled blocks are used where no hook is in them and
            nothing is differentiated; recorded passes with fused blocks are faster and need no minutes to begin.

    Raises:
        InputError: nothing of that name, or its weights are missing, truncated, not finite or of a model that an edit
            cannot use; or there is no such device, or the dtype is another.
    """
    if not isinstance(name, (str, Path)):
        raise InputError(f"model name is {name!r}: give a text, one of {', '.join(CARDS)}, a folder or 'owner/name'")
    place = device_of(device)
    dtype = dtype_of(dtype, place)
    if graphs and place.type != "cuda":
        raise InputError(f"graphs is True, but the device is {place}: they are a CUDA device's, leave graphs out")
    if graphs and plain:
        raise InputError("graphs and plain are both True: a plain model records nothing, leave one out")
    card = card_of(str(name))
    parts = read_any(card.source, CARDS, place, dtype, config=config, tokenizer=tokenizer, vae=vae)
    if card is not CARDS.get(str(name)) and "text_encoder_2" in parts:
        card = replace(card, guidance=CARDS["sdxl"].guidance)
    model = Model(name=str(name), card=card, **parts)
    model.check_weights()
    for part in model.parts.values():
        part.to(place)
    if lora is not None:
        model.load_lora(lora)
    if not plain:
        lay_out(model.unet, model.vae)
    if graphs is not False and not plain:
        from dragonkit.graphs import recording

        model.graphs = recording(model)
    return model


def _finite(x: Tensor, name: str, remedy: str) -> Tensor:
    """``x`` itself; raises a NonFiniteError unless all of it is finite."""
    if not x.isfinite().all():
        raise NonFiniteError(f"{name} is not finite: {remedy}")
    return x
