"""Tables in Markdown files that benchmarks keep up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.bench.files import check_save, write_whole


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
    with path.open(encoding="utf-8", newline="") as file:  # line ends as they are
        content = file.read()
    if end not in content.partition(start)[2]:
        raise ValueError(f"{path}: holds no {start} ... {end}; add both lines where the table should stand")
    return content


def check_places(save: Path | None, page: Path | None, name: str) -> None:
    """Refuse before the work a file that could not be written, or a page that lacks a table's marks; None is none.

    Raises:
        ValueError: As ``files.check_save`` and ``check_marks``.
    """
    check_save(save)
    if page is not None:
        check_marks(page, name)


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file, in one piece.

    Line ends are those the file has.

    Raises:
        ValueError: The file does not hold both marks.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = check_marks(path, name)
    head, rest = content.split(start, 1)
    _, tail = rest.split(end, 1)
    new = f"{start}\n{text}\n{end}"
    write_whole(path, head + (new.replace("\n", "\r\n") if "\r\n" in content else new) + tail)
