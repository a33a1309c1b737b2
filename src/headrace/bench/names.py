"""Names of pipelines as benches take them, and their full texts as results hold them."""

from __future__ import annotations

import re

from headrace import registry
from headrace.engine import Pipeline

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def named(name: str, *, chunk_frames: int = 1) -> Pipeline:
    """Parse a pipeline with settings behind it, such as ``recent:16+stc_pruner:0.3@memory.positions=repack``.

    Args:
        name: Its name.
        chunk_frames: Frames per step.

    Raises:
        ValueError: The text or a setting is wrong.
    """
    text, *settings = name.split("@")
    return Pipeline.parse(text, settings, chunk_frames=chunk_frames)


def code_of(name: str) -> str:
    """Hash of what the files of a pipeline's methods do, "" for a row that is no pipeline."""
    try:
        methods = named(name).methods().values()
    except ValueError:
        return ""
    return " ".join(registry.code_of(type(method)) for method in methods)


def without_addresses(text: str) -> str:
    """A pipeline's full text without the addresses of functions, which differ from run to run."""
    return _ADDRESS.sub("", text)


def full_text(pipeline: Pipeline) -> str:
    """The full text of a pipeline, equal in every run."""
    return without_addresses(str(pipeline))
