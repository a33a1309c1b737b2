"""Full texts of pipelines as results hold them, and hashes of their code."""

from __future__ import annotations

import re

from headrace import registry
from headrace.engine import Pipeline

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_of(name: str) -> str:
    """Hash of what the files of a pipeline's methods do, "" for a row that is no pipeline."""
    try:
        methods = Pipeline.parse(name).methods().values()
    except ValueError:
        return ""
    return " ".join(registry.code_of(type(method)) for method in methods)


def without_addresses(text: str) -> str:
    """A pipeline's full text without the addresses of functions, which differ from run to run."""
    return _ADDRESS.sub("", text)


def full_text(pipeline: Pipeline) -> str:
    """The full text of a pipeline, equal in every run."""
    return without_addresses(str(pipeline))
