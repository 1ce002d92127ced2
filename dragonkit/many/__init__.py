"""Many edits: in batches, streamed as they finish, resumed after an interrupt, on several GPUs.

    for outcome in edit_many(model, [Job("a", image, Move(mask, by=(40, 0))), "cases/b/edit.json"], out="results"):
        print(outcome.name, outcome.state)

``run`` is the loop, ``together`` one batch, ``abreast`` what makes edits of different images one; ``jobs`` reads what
there is to do, ``folder`` keeps what is done, ``devices`` shares the work between processes.
"""

from dragonkit.many.jobs import Job as Job
from dragonkit.many.jobs import read_jobs as read_jobs
from dragonkit.many.run import Outcome as Outcome
from dragonkit.many.run import edit_many as edit_many

__all__ = ["Job", "Outcome", "edit_many", "read_jobs"]
