"""Rows of a bench that are done, in a JSON-lines file, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from headrace.bench.files import append_line, check_save, damaged, read_lines
from headrace.bench.names import code_of, without_addresses


class Named(Protocol):
    """A row: one pipeline on one stream."""

    name: str
    pipeline: str
    seed: int


R = TypeVar("R", bound=Named)


class Stored(Generic[R]):
    """One row per pipeline and stream, the newest; rows of another key are passed over.

    Args:
        path: JSON-lines file, made when the first row comes; None keeps rows in memory.
        key: What rows must share to stand side by side.
        read: Makes a row of what the file holds of it.
        text: From a pipeline's name to its full text, with every parameter, as a row has it.

    Raises:
        ValueError: A line of the file is damaged, or the file could not be written.
    """

    def __init__(
        self,
        path: Path | None,
        key: Mapping[str, Any],
        *,
        read: Callable[[dict[str, Any]], R],
        text: Callable[[str], str],
    ) -> None:
        check_save(path)
        self._path, self._text = path, text
        self._key = json.loads(json.dumps(dict(key)))
        self._rows: dict[tuple[str, int], R] = {}
        self._codes: dict[tuple[str, int], str | None] = {}  # None: written before it was noted
        for number, found in read_lines(path):
            try:
                own, values = found["key"] == self._key, found["row"]
                if own:
                    self._take(read(values), found.get("code"))
            except (ValueError, KeyError, TypeError) as error:
                assert path is not None
                raise damaged(path, number, error) from None

    @property
    def rows(self) -> list[R]:
        """The rows, in the order in which they were measured."""
        return list(self._rows.values())

    def has(self, name: str, seed: int) -> bool:
        """True when a pipeline has run on a stream, with today's parameters and code of its methods."""
        row, code = self._rows.get((name, seed)), self._codes.get((name, seed))
        return (
            row is not None
            and without_addresses(row.pipeline) == self._text(name)
            and (code is None or code == code_of(name))
        )

    def put(self, row: R, values: Mapping[str, Any]) -> None:
        """Keep a row in place of an older one.

        Args:
            row: The row.
            values: What the file shall hold of it.
        """
        code = code_of(row.name)
        self._take(row, code)
        if self._path is not None:
            append_line(self._path, {"key": self._key, "row": dict(values), "code": code})

    def _take(self, row: R, code: str | None) -> None:
        self._rows.pop((row.name, row.seed), None)
        self._rows[row.name, row.seed] = row
        self._codes[row.name, row.seed] = code
