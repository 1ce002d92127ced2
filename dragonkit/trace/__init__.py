"""What a run leaves behind: kept as it is, decoded and converted only when looked at.

edit_steps ── Step ──> Trace.add        what is kept is said by a Record, never by the sampler
Observer ── features, where edited cells look ──> Step
Trace ──> frames, gif, mp4, plot, to_json, save ──> a folder that Trace.load reads without a model
"""

from dragonkit.film import to_pil as to_pil
from dragonkit.result import Result as Result
from dragonkit.trace.look import Look as Look
from dragonkit.trace.look import Rows as Rows
from dragonkit.trace.observe import Mixing as Mixing
from dragonkit.trace.observe import Observer as Observer
from dragonkit.trace.observe import Seen as Seen
from dragonkit.trace.record import NOTHING as NOTHING
from dragonkit.trace.record import Record as Record
from dragonkit.trace.trace import StepLike as StepLike
from dragonkit.trace.trace import Trace as Trace

__all__ = ["NOTHING", "Look", "Mixing", "Observer", "Record", "Result", "Rows", "Seen", "StepLike", "Trace", "to_pil"]
