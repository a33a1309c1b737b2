"""Naive twin of ``streamingvlm``: all rounds in a list, and what is left of each told from its age."""

from __future__ import annotations

from typing import Any

from headrace.types import Kind, ModelSpec
from reference.naive.rows import Row

VARIANTS: list[dict[str, Any]] = [
    {"window": 3, "text_rounds": 3, "text_sink": 3, "text_window": 5},
    {"window": 1, "text_rounds": 4, "text_sink": 2, "text_window": 9, "positions": "repack"},
    {"window": 5, "text_rounds": 2, "text_sink": 4, "text_window": 6, "positions": "original"},
    {"window": 4, "text_rounds": 1, "text": "answers"},
    {"window": 2, "text_rounds": 2, "text_sink": 0, "text_window": 7, "counting": "append", "positions": "original"},
]
IDENTITY: list[dict[str, Any]] = [
    {"window": 100_000, "text_rounds": 100_000},
    {"window": 100_000, "text_rounds": 100_000, "counting": "append"},
]
REJECTS: dict[str, list[Any]] = {
    "window": [0, -1],
    "text_rounds": [0, -1],
    "text_sink": [-1],
    "text_window": [-1],
    "text": ["", "Turns"],
    "counting": ["", "grow"],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"window": [1, 8, 3, 100]}


class Twin:
    """Rounds as (pictures, words), from the first."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method = method
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.axes = spec.position_rows
        self.prefix: list[Row] = []
        self.rounds: list[tuple[list[Row], list[Row]]] = []
        self.early: set[int] = set()
        self.rows: list[Row] = []
        self.pictures: list[Row] = []
        self.window: list[Row] = []

    def write(self, new: list[Row]) -> None:
        """Remember, then say what is left of each round."""
        frame = None
        for row in new:
            if row.kind == Kind.PREFIX:
                self.prefix.append(row)
                continue
            if row.frame >= 0 and row.frame != frame:
                frame = row.frame
                self.rounds.append(([], []))
            if not self.rounds:
                self.rounds.append(([], []))
            self.rounds[-1][row.frame < 0].append(row)
        few, many = self.method.window, self.method.text_rounds
        said: list[Row] = []
        words: list[tuple[int, list[Row]]] = []
        self.pictures, self.window = [], []
        for i, (shown, spoken) in enumerate(self.rounds):
            age = len(self.rounds) - 1 - i
            if age < min(few, many):
                self.window += shown + spoken
            elif age < many and i not in self.early:
                words.append((i, spoken))
            else:
                said += spoken
                if few > many and age < few:
                    self.pictures += shown
        while sum(len(rows) for _, rows in words) > self.method.text_window:
            self.early.add(words[0][0])
            said += words.pop(0)[1]
        if self.method.text == "answers":
            said = [row for row in said if row.kind == Kind.ANSWER]
        sinks, rest = said[: self.method.text_sink], said[self.method.text_sink :]
        newest = rest[len(rest) - min(self.method.text_window, len(rest)) :]
        line = [*self.prefix, *sinks, *newest, *(row for _, rows in words for row in rows)]
        self.rows = [*line, *self.pictures, *self.window]

    def places(self, rows: list[Row]) -> list[tuple[int, ...]]:
        """Words in a line that ends where pictures begin; pictures moved by the words that left behind them."""
        own = {row.arrival: row.ids if self.policy == "original" else (row.arrival,) * self.axes for row in rows}
        if self.method.counting == "append" or not self.window:
            return [own[row.arrival] for row in rows]
        gone = [row.arrival for _, spoken in self.rounds for row in spoken if row.arrival < self.window[0].arrival]
        places = dict(own)
        for row in self.pictures:
            places[row.arrival] = tuple(x + sum(a > row.arrival for a in gone) for x in own[row.arrival])
        behind = (self.pictures or self.window)[0]
        line = self.rows[: len(self.rows) - len(self.pictures) - len(self.window)]
        for i, row in enumerate(line):
            places[row.arrival] = tuple(x - len(line) + i for x in places[behind.arrival])
        return [places[row.arrival] for row in rows]
