"""Image fidelity, 1 - LPIPS: only where the package and its backbone are already there; nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

BACKBONE = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet, in the folder where torch.hub keeps what it has fetched."""

Fidelity = Callable[[Tensor, Tensor], float]
"""(source, edited), both (3, H, W) in [0, 1] -> 1 - LPIPS; 1 if they are equal."""


def load_fidelity() -> tuple[Fidelity | None, str]:
    """Find LPIPS [Zhang et al., 2018] with AlexNet, as DragBench is scored: images of 224 x 224, bilinear.

    Source: Shi et al., "DragDiffusion", CVPR 2024, drag_bench_evaluation/run_eval_similarity.py (which prints LPIPS);
    image fidelity is 1 - LPIPS in the paper.

    Returns:
        The score and "", or None and what is missing.
    """
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch raises the latter
        if getattr(error, "name", "") == "lpips":
            return None, "the package lpips is not installed (pip install lpips)"
        return None, f"the package lpips cannot be imported ({' '.join(str(error).split())})"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not weights.is_file():
        return None, f"{BACKBONE}, LPIPS's backbone, is not in {weights.parent}"
    # With a random backbone the package fetches nothing; the real one is then read here, without unpickling code.
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    net.net.load_state_dict({name: stored["features." + name.split(".", 1)[1]] for name in net.net.state_dict()})
    net.eval().requires_grad_(False)

    @torch.no_grad()
    def fidelity(source: Tensor, edited: Tensor) -> float:
        small = [F.interpolate(x[None].float() * 2 - 1, (224, 224), mode="bilinear") for x in (source, edited)]
        return 1.0 - float(net(*small))

    return fidelity, ""
