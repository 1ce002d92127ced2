"""Property tests draw the same examples on every run, so that a check passes or fails for a reason one can find."""

from hypothesis import settings

settings.register_profile("stable", derandomize=True, deadline=None)
settings.load_profile("stable")
