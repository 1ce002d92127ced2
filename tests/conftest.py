"""Property tests draw the same examples on every run, so that a check passes or fails for a reason one can find."""

import os

import torch
from hypothesis import settings

# Without a GPU Triton's interpreter runs its kernels; it reads this when it is imported, which torch does late.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("stable", derandomize=True, deadline=None)
settings.load_profile("stable")
