"""Results of an accuracy bench on disk, one line per pipeline and stream, so that an interrupted run goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.bench.accuracy import Row, Setting
from headrace.bench.statistics import Accuracy, Outcome, accuracy


class Ledger:
    """Rows that are done, for one model and setting.

    Args:
        path: JSON-lines file, made when the first row comes; None keeps rows in memory.
        model: Fingerprint of the model.
        setting: What is measured.

    Raises:
        ValueError: A line of the file is damaged.
    """

    def __init__(self, path: Path | None, model: str, setting: Setting) -> None:
        self._path = path
        self._key = {"model": model, **dataclasses.asdict(setting)}
        self.rows: list[Row] = []
        if path is not None and path.is_file():
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                self._take(line, number)

    def _take(self, line: str, number: int) -> None:
        try:
            found = json.loads(line)
            key, row = found["key"], found["row"]
            outcomes = [Outcome(kind, row["seed"], right) for kind, right in row.pop("outcomes")]
            if key == self._key:
                self.rows.append(Row(**row, outcomes=outcomes))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path}: line {number} is damaged ({error}); remove it") from None

    def has(self, name: str, seed: int) -> bool:
        """True when a pipeline has run on a stream."""
        return any(row.name == name and row.seed == seed for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep a row, on disk too."""
        self.rows.append(row)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = dataclasses.asdict(row) | {"outcomes": [(x.kind, x.right) for x in row.outcomes]}
        with self._path.open("a") as file:
            file.write(json.dumps({"key": self._key, "row": values}) + "\n")


def summarise(rows: Sequence[Row], names: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """One object per pipeline over the first ``seeds`` streams, in the order of ``names``.

    ``accuracy`` is the mean over kinds, ``ci95`` half its 95 % interval, ``retention`` its share of dense's (None where
    dense did not run).
    """
    found: dict[str, tuple[Accuracy, list[Row]]] = {}
    for name in names:
        own = [row for row in rows if row.name == name and row.seed < seeds]
        found[name] = (accuracy([x for row in own for x in row.outcomes]), own)
    dense = found["dense"][0].macro if "dense" in found else None
    return [_object(name, score, own, dense) for name, (score, own) in found.items()]


def _object(name: str, score: Accuracy, own: list[Row], dense: float | None) -> dict[str, Any]:
    def mean(field: str) -> float:
        return float(sum(getattr(row, field) for row in own)) / len(own)

    return {
        "pipeline": name,
        "accuracy": score.macro,
        "ci95": score.ci95,
        "micro": score.micro,
        "retention": score.macro / dense if dense else None,
        "tokens_per_frame": mean("tokens_per_frame"),
        "ms_per_frame": mean("ms_per_frame"),
        "ms_per_question": mean("ms_per_question"),
        "memory_bytes": mean("memory_bytes"),
        "questions": score.num,
        "streams": len(own),
        "by_kind": score.by_kind,
    }
