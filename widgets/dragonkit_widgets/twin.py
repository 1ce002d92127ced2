"""A model that a thread of its own may run, while the notebook's cells run the same weights."""

from __future__ import annotations

import copy
import dataclasses

from dragonkit.models import Model


def twin(model: Model) -> Model:
    """The same model, its weights shared, with hooks of its own.

    Features are read by hooks on the denoiser's modules, and a hook is called in whichever thread the module runs: two
    threads that read features of one denoiser would get, or end, each other's passes. A twin's modules are copies, the
    tensors in them are not.

    Passes recorded as CUDA graphs belong to the model, which replays them; a twin evaluates its own, for while one
    thread records, others may not ask a GPU for memory.

    Hooks that hang on the model now hang on the twin too. So take it in the notebook's thread, between cells, when
    there are only those that are meant to stay.
    """
    unet = model.unet
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    return dataclasses.replace(model, unet=copy.deepcopy(unet, shared), graphs=None)
