"""Results of a recall bench: rows on disk, so that an interrupted run goes on, and the table of accuracy by age."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.bench.names import MAJORITY, MOMENT
from headrace.bench.recall import (
    GAP_S,
    MARKED,
    NOW,
    Row,
    Setting,
    guessing,
    num_moments,
    num_planned,
    text_of,
)
from headrace.bench.statistics import Accuracy, Outcome, accuracy
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
    as the sample, the number of questions, and accuracy by kind; None where a memory was full before all of them were
    asked. ``majority`` is marked on streams of its own (``recall.guessing``). What no pipeline has is None: the guesser
    has no times, and ``moment`` keeps no past.
    """
    ages, planned = (NOW, *setting.ages), [num_planned(seed, setting) for seed in range(seeds)]
    found = []
    for name in names:
        own = [row for row in rows if row.name == name and row.seed < seeds]
        if name == MAJORITY:
            found.append(_guesser(setting, ages))
        elif own:
            by_age = {f"{age:g}": _at(own, age, planned, setting.askings) for age in ages}
            found.append({"pipeline": name, "by_age": by_age, **_costs(own), "streams": len(own)})
    return found


def _guesser(setting: Setting, ages: Sequence[float]) -> dict[str, Any]:
    score = _score(guessing(setting.level))
    nothing = dict.fromkeys(("ms_per_frame", "ms_per_question", "memory_bytes", "full_s"))
    return {"pipeline": MAJORITY, "by_age": {f"{age:g}": score for age in ages}, **nothing, "streams": MARKED}


def _costs(own: Sequence[Row]) -> dict[str, float | None]:
    def mean(field: str) -> float:
        return float(sum(getattr(row, field) for row in own)) / len(own)

    past = own[0].name != MOMENT
    return {
        "ms_per_frame": mean("ms_per_frame") if past else None,
        "ms_per_question": mean("ms_per_question"),
        "memory_bytes": mean("memory_bytes") if past else None,
        "full_s": min((row.full_s for row in own if row.full_s is not None), default=None),
    }


def _at(own: Sequence[Row], age: float, planned: Sequence[Mapping[float, int]], askings: int) -> dict[str, Any] | None:
    outcomes = [Outcome(kind, row.seed, right) for row in own for when, kind, right in row.outcomes if when == age]
    if not outcomes or len(outcomes) < sum(planned[row.seed][age] for row in own):
        return None
    return _score(accuracy(outcomes, repeats=1 if age == NOW else askings))


def _score(score: Accuracy) -> dict[str, Any]:
    return {"accuracy": score.macro, "ci95": score.ci95, "questions": score.num, "by_kind": score.by_kind}


def recall_table(found: Sequence[dict[str, Any]], setting: Setting) -> str:
    """Accuracy by age in Markdown."""
    ages = [f"{age:g}" for age in (NOW, *setting.ages)]
    rows = [
        [
            f"`{row['pipeline']}`",
            *("full" if x is None else f"{100 * x['accuracy']:.1f} ± {100 * x['ci95']:.1f}" for x in _cells(row, ages)),
            _shown(row["ms_per_frame"], ".1f"),
            _shown(row["ms_per_question"], ".0f"),
            _shown(row["memory_bytes"], ".1f", 2**20),
        ]
        for row in found
    ]
    header = ["pipeline", "now", *(f"{age} min" for age in ages[1:])]
    return table([*header, "ms per frame", "ms per question", "memory, MiB"], rows)


def _shown(value: float | None, form: str, unit: float = 1.0) -> str:
    """A figure, or nothing."""
    return "" if value is None else format(value / unit, form)


def _cells(row: dict[str, Any], ages: Sequence[str]) -> list[dict[str, Any] | None]:
    return [row["by_age"][age] for age in ages]


def caption(found: Sequence[dict[str, Any]], setting: Setting, what: str, streams: int) -> str:
    """What was measured, as it stands below the table, but for the machine.

    Args:
        found: As ``summarise`` gives it.
        setting: What is measured.
        what: Model, level, and what else is not the default.
        streams: Streams.
    """
    planned = [num_planned(seed, setting) for seed in range(streams)]
    moments = sum(num_moments(seed, setting) for seed in range(streams))
    per_age = sum(one[setting.ages[0]] for one in planned)
    full = [f"`{row['pipeline']}` was full at {row['full_s']:.0f} s" for row in found if row["full_s"] is not None]
    guesser = [f"`{MAJORITY}` on {MARKED} other streams" for row in found if row["pipeline"] == MAJORITY]
    kinds = per_age // (moments * setting.askings)
    askings = f" x {setting.askings} askings, {GAP_S:g} s apart" if setting.askings > 1 else ""
    return (
        f"`headrace bench recall`: {what}, {streams} streams of {setting.fps:g} frames per second,"
        f" {sum(one[NOW] for one in planned)} questions now, {per_age} per age ({moments} moments x {kinds} kinds"
        f"{askings}), % right (95 %, over streams); a memory that grows may take"
        f" {setting.memory_mb:g} MiB{''.join('; ' + x for x in (*full, *guesser))}"
    )
