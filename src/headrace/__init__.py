"""headrace: an engine that watches a live video stream with a video language model."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from headrace.engine import Engine, Pipeline, Stream, load
    from headrace.types import Answer, Frame, Query

__all__ = ["Answer", "Engine", "Frame", "Pipeline", "Query", "Stream", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is first used, so that ``headrace --version`` is quick."""
    if name in ("Engine", "Pipeline", "Stream", "load"):
        import headrace.engine as room
    elif name in ("Answer", "Frame", "Query"):
        import headrace.types as room  # type: ignore[no-redef]
    elif name == "video":
        return importlib.import_module("headrace.video")
    else:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(room, name)
