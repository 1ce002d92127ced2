"""From a name to the parts of a model: bundled, from a folder, from the hub, from one file, or random.

    name ── find ──> folder ──┐
             │   (hub: the local cache first)   ├── suits? ── read ──> three to five networks and their tokenizers
             └────> .safetensors file ──────────┘

``cards`` says what is known by name, ``suits`` what an edit cannot use and why, ``published`` the exact shapes of
Stable Diffusion's networks. Weights are read from safetensors alone and no code that comes with a model is run.
"""
