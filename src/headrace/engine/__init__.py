"""The engine: what to run, what changed, and a running stream."""

from headrace.engine.checkpoints import Checkpointer
from headrace.engine.choices import Choice
from headrace.engine.engine import Engine, load
from headrace.engine.folder import SavedStreamError
from headrace.engine.governor import Governor
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState
from headrace.engine.step import MemoryBudgetError
from headrace.engine.stream import Stream

__all__ = [
    "Checkpointer",
    "Choice",
    "Engine",
    "Governor",
    "MemoryBudgetError",
    "Pipeline",
    "SavedStreamError",
    "Stream",
    "StreamState",
    "load",
]
