"""How the bundled model was made: architecture, training, export and its held-out measurements."""
