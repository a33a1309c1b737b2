"""Tables in Markdown files that benchmarks keep up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def check_marks(path: Path, name: str) -> str:
    """Read a file that has ``<!-- name -->`` and ``<!-- /name -->``; worth doing before a long bench.

    Raises:
        ValueError: The file does not hold both marks, in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = path.read_text(encoding="utf-8")
    if end not in content.partition(start)[2]:
        raise ValueError(f"{path}: holds no {start} ... {end}; add both lines where the table should stand")
    return content


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
        ValueError: The file does not hold both marks.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, rest = check_marks(path, name).split(start, 1)
    _, tail = rest.split(end, 1)
    path.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")
