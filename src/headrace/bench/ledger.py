"""Results of an accuracy bench on disk, one line per pipeline and stream, so that an interrupted run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.bench.accuracy import Row, Setting, text_of
from headrace.bench.statistics import Accuracy, Outcome, accuracy, difference
from headrace.bench.stored import Stored
from headrace.video.world import ALL_KINDS, GROUPS
from headrace.video.world.marking import Tally, total

LAYOUT = 3  # what is asked and what a row holds; rows of another layout are passed over
FORWARD = GROUPS[-1]


class Ledger(Stored[Row]):
    """Rows that are done, for one model, setting and place; rows of others, and of older layouts, are passed over.

    Args:
        path: JSON-lines file, made when the first row comes; None keeps rows in memory.
        model: Fingerprint of the model: its shape, number type and weights.
        setting: What is measured.
        place: Where, as ``bench.machine.place`` gives it: times are those of one machine, and number types and versions
            may change an answer.

    Raises:
        ValueError: A line of the file is damaged, or the file could not be written.
    """

    def __init__(self, path: Path | None, model: str, setting: Setting, place: Mapping[str, Any]) -> None:
        self.setting = setting
        key = {"layout": LAYOUT, "model": model, **dataclasses.asdict(setting), **place}
        super().__init__(path, key, read=_row, text=text_of)

    def add(self, row: Row) -> None:
        """Keep a row, on disk too, in place of an older one of the same pipeline and stream."""
        values = dataclasses.asdict(row) | {"outcomes": [(x.kind, x.right) for x in row.outcomes]}
        self.put(row, values)


def _row(values: dict[str, Any]) -> Row:
    """A row as the file holds it."""
    outcomes = [Outcome(kind, values["seed"], right) for kind, right in values["outcomes"]]
    watched = {text: Tally(**tally) for text, tally in values["watched"].items()}
    return Row(**{**values, "outcomes": outcomes, "watched": watched})


def summarise(rows: Sequence[Row], names: Sequence[str], seeds: int, *, against: str = "") -> list[dict[str, Any]]:
    """One object per pipeline over the first ``seeds`` streams, in the order of ``names``.

    ``accuracy`` is the mean over kinds, ``ci95`` half its 95 % interval, ``retention`` its share of dense's (None where
    dense did not run). ``speak_f1``, ``speak_precision`` and ``speak_recall`` are over the events of all standing
    instructions of all streams (None where nothing was watched). ``by_group`` is the mean over the kinds of a group;
    the group of standing instructions has ``speak_f1``. ``difference`` and ``difference_ci95`` compare with the
    pipeline ``against``, question by question (None without it, and for itself).
    """
    found: dict[str, tuple[Accuracy, list[Row]]] = {}
    for name in names:
        own = [row for row in rows if row.name == name and row.seed < seeds]
        found[name] = (accuracy([x for row in own for x in row.outcomes]), own)
    dense = found["dense"][0].macro if "dense" in found else None
    objects = [_object(name, score, own, dense) for name, (score, own) in found.items()]
    for item in objects:
        other = () if item["pipeline"] == against or against not in found else _outcomes(found[against][1])
        gap, ci95 = difference(_outcomes(found[item["pipeline"]][1]), other) if other else (None, None)
        item.update(difference=gap, difference_ci95=ci95)
    return objects


def _outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Outcomes of all streams, in the order of the streams."""
    return [x for row in sorted(rows, key=lambda row: row.seed) for x in row.outcomes]


def _object(name: str, score: Accuracy, own: list[Row], dense: float | None) -> dict[str, Any]:
    def mean(field: str) -> float:
        return float(sum(getattr(row, field) for row in own)) / len(own)

    tallies = [tally for row in own for tally in row.watched.values()]
    spoke = total(tallies) if tallies else None
    speak_f1 = spoke.f1 if spoke else None
    return {
        "pipeline": name,
        "accuracy": score.macro,
        "ci95": score.ci95,
        "micro": score.micro,
        "retention": score.macro / dense if dense else None,
        "tokens_per_frame": mean("tokens_per_frame"),
        "ms_per_frame": mean("ms_per_frame"),
        "ms_per_question": mean("ms_per_question"),
        "ms_per_watch": mean("ms_per_watch") if tallies else None,
        "speak_f1": speak_f1,
        "speak_precision": spoke.precision if spoke else None,
        "speak_recall": spoke.recall if spoke else None,
        "watches": len(tallies),
        "memory_bytes": mean("memory_bytes"),
        "questions": score.num,
        "streams": len(own),
        "by_group": _by_group(score.by_kind) | {FORWARD: speak_f1},
        "by_kind": score.by_kind,
    }


def _by_group(by_kind: dict[str, float]) -> dict[str, float | None]:
    """Mean over the kinds of each group of questions, None where none was asked."""
    found: dict[str, float | None] = {}
    for group in GROUPS:
        own = [share for kind, share in by_kind.items() if ALL_KINDS[kind].group == group]
        found[group] = sum(own) / len(own) if own else None
    return found
