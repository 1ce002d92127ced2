"""Notebook widgets for dragonkit. No widget has been written yet: version 0.1 draws with matplotlib only."""
