"""Full texts of pipelines as results hold them, and hashes of their code."""

from __future__ import annotations

import re

from headrace import registry
from headrace.bench.rows import Oracle
from headrace.engine import Pipeline

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
MAJORITY, TEXT_ONLY, MOMENT = "majority", "text-only", "moment"  # rows that are no pipelines
_RUNS = {MAJORITY: "", TEXT_ONLY: "", MOMENT: "full"}  # what of the methods they run


def code_of(name: str) -> str:
    """Hash of what the files of a row's methods do, an oracle's among them, "" for a row that runs none.

    Raises:
        ValueError: The name is wrong.
    """
    text = _RUNS.get(name, name)
    if not text:
        return ""
    text, settings, keep = without_oracle(text)
    methods = [type(method) for method in Pipeline.parse(text, settings).methods().values()]
    return " ".join(registry.code_of(method) for method in (*methods, *([] if keep is None else [Oracle])))


def without_oracle(name: str) -> tuple[str, list[str], str | None]:
    """Take ``oracle:KEEP``, which is no method of the registry, out of a pipeline's text.

    Returns:
        The text without it and without settings, the settings, and what stands behind the colon, None where no oracle
        is named.

    Raises:
        ValueError: As ``registry.apart``.
    """
    text, settings = registry.apart(name)
    parts = text.split("+")
    oracles = [part for part in parts if part.partition(":")[0] == "oracle"]
    rest = "+".join(part for part in parts if part not in oracles) or "dense"
    return rest, settings, oracles[0].partition(":")[2] if oracles else None


def without_addresses(text: str) -> str:
    """A pipeline's full text without the addresses of functions, which differ from run to run."""
    return _ADDRESS.sub("", text)


def full_text(pipeline: Pipeline) -> str:
    """The full text of a pipeline, equal in every run."""
    return without_addresses(str(pipeline))
