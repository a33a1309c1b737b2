"""Results of a recall bench: rows on disk, so that an interrupted run goes on, and the table of accuracy by age."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.bench.recall import NOW, Row, Setting, text_of
from headrace.bench.statistics import Outcome, accuracy
from headrace.bench.stored import Stored
from headrace.bench.table import table

LAYOUT = 1  # what is asked and what a row holds; rows of another layout are passed over


class Rows(Stored[Row]):
    """Rows that are done, for one model, setting and place; rows of others are passed over.

    Args:
        path: JSON-lines file, made when the first row comes; None keeps rows in memory.
        model: Fingerprint of the model.
        setting: What is measured.
        place: Where, as ``bench.machine.place`` gives it; times are those of one machine.

    Raises:
        ValueError: A line of the file is damaged, or the file could not be written.
    """

    def __init__(self, path: Path | None, model: str, setting: Setting, place: Mapping[str, Any]) -> None:
        key = {"bench": "recall", "layout": LAYOUT, "model": model, **dataclasses.asdict(setting), **place}
        super().__init__(path, key, read=_row, text=text_of)

    def add(self, row: Row) -> None:
        """Keep a row, on disk too, in place of an older one of the same pipeline and stream."""
        self.put(row, dataclasses.asdict(row))


def _row(values: dict[str, Any]) -> Row:
    """A row as the file holds it."""
    return Row(**{**values, "outcomes": [(age, kind, right) for age, kind, right in values["outcomes"]]})


def summarise(rows: Sequence[Row], names: Sequence[str], seeds: int, setting: Setting) -> list[dict[str, Any]]:
    """One object per pipeline over the first ``seeds`` streams, in the order of ``names``.

    ``by_age`` holds for every age in minutes (0: what is still there) accuracy, half its 95 % interval with the streams
    as the sample, the number of questions, and accuracy by kind; None where its memory was full before.
    """
    found = []
    for name in names:
        own = [row for row in rows if row.name == name and row.seed < seeds]
        if not own:
            continue
        full = [row.full_s for row in own if row.full_s is not None]

        def mean(field: str, own: list[Row] = own) -> float:
            return float(sum(getattr(row, field) for row in own)) / len(own)

        found.append(
            {
                "pipeline": name,
                "by_age": {f"{age:g}": _at(own, age) for age in (NOW, *setting.ages)},
                "ms_per_frame": mean("ms_per_frame"),
                "ms_per_question": mean("ms_per_question"),
                "memory_bytes": mean("memory_bytes"),
                "full_s": min(full, default=None),
                "streams": len(own),
            }
        )
    return found


def _at(own: Sequence[Row], age: float) -> dict[str, Any] | None:
    outcomes = [Outcome(kind, row.seed, right) for row in own for when, kind, right in row.outcomes if when == age]
    if not outcomes:
        return None
    score = accuracy(outcomes)
    return {"accuracy": score.macro, "ci95": score.ci95, "questions": score.num, "by_kind": score.by_kind}


def recall_table(found: Sequence[dict[str, Any]], setting: Setting) -> str:
    """Accuracy by age in Markdown."""
    ages = [f"{age:g}" for age in (NOW, *setting.ages)]
    rows = [
        [
            f"`{row['pipeline']}`",
            *("full" if x is None else f"{100 * x['accuracy']:.1f} ± {100 * x['ci95']:.1f}" for x in _cells(row, ages)),
            f"{row['ms_per_frame']:.1f}",
            f"{row['ms_per_question']:.0f}",
            f"{row['memory_bytes'] / 2**20:.1f}",
        ]
        for row in found
    ]
    header = ["pipeline", "now", *(f"{age} min" for age in ages[1:])]
    return table([*header, "ms per frame", "ms per question", "memory, MiB"], rows)


def _cells(row: dict[str, Any], ages: Sequence[str]) -> list[dict[str, Any] | None]:
    return [row["by_age"][age] for age in ages]
