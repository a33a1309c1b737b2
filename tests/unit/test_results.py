"""The README's tables are what the benches make of the rows in ``docs/results``, and all rows there count."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from headrace.bench import accuracy, recall, recalled
from headrace.bench.grid import Grid
from headrace.bench.latency import Run, Setting
from headrace.bench.ledger import Ledger, summarise
from headrace.bench.names import MAJORITY
from headrace.bench.ratios import page
from headrace.bench.record import Record
from headrace.cli import bench as commands

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text()


def shown(name: str) -> str:
    """What stands between a table's marks."""
    return README.partition(f"<!-- bench:{name} -->\n")[2].partition(f"\n<!-- /bench:{name} -->")[0]


def names(text: str) -> list[str]:
    """The first column of a table of pipelines."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def rows(kind: Any, setting: type[Any], name: str) -> tuple[Any, Any]:
    """All rows of a file, which must be of one model, setting and place."""
    lines = [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    assert all(line["key"] == lines[0]["key"] for line in lines), "rows that no bench reads side by side"
    key = {k: tuple(v) if isinstance(v, list) else v for k, v in lines[0]["key"].items()}
    fields = {field.name for field in dataclasses.fields(setting)}
    chosen = setting(**{k: v for k, v in key.items() if k in fields})
    place = {k: v for k, v in key.items() if k not in {*fields, "bench", "layout", "model"}}
    found = kind(RESULTS / f"{name}.jsonl", key["model"], chosen, place).rows
    assert len(found) == len(lines), "rows that a bench passes over"
    return found, chosen


def test_the_table_of_accuracy() -> None:
    found, setting = rows(Ledger, accuracy.Setting, "accuracy")
    assert {row.name for row in found} == set(names(shown("accuracy")))
    results = summarise(found, names(shown("accuracy")), 4)
    at = {"cpu": "", "accelerator": None, "threads": 1, "torch": "", "date": ""}
    table, _, caption = commands._accuracy_table(results, f"nano, {setting.level} level", at, "").partition("\n\n")
    assert table == shown("accuracy").partition("\n\n")[0]
    assert re.search(r"\d+ questions, mean over kinds, F1 over \d+", caption)[0] in shown("accuracy")


def test_the_table_of_budgets() -> None:
    found, _ = rows(Ledger, accuracy.Setting, "budgets")
    grid = Grid()
    assert {row.name for row in found} == set(grid.names)
    results = summarise(found, grid.names, 3, against=grid.memory)
    cells = grid.rows(results)
    assert shown("budgets").startswith(f"{grid.table(cells)}\n\n{grid.costs(cells)}\n\n`headrace bench budgets`")
    assert f" {results[0]['questions']} questions" in shown("budgets")


def test_the_table_of_recall() -> None:
    found, setting = rows(recalled.Rows, recall.Setting, "recall")
    told = names(shown("recall"))
    assert {row.name for row in found} == set(told) - {MAJORITY}
    results = recalled.summarise(found, told, 3, setting)
    table = recalled.recall_table(results, setting)
    caption = recalled.caption(results, setting, f"nano, {setting.level} level", 3)
    assert shown("recall").startswith(f"{table}\n\n{caption}; ")


def test_the_table_of_latency() -> None:
    known = json.loads((RESULTS / "latency.json").read_text())
    setting = Setting(**{**known["setting"], "lengths": tuple(known["setting"]["lengths"])})
    runs = [Run(**run) for run in known["runs"]]
    result = json.loads(json.dumps(Record(setting, known["machine"], runs, costs=known["costs"]).result()))
    assert page(setting, result, known["machine"]) == shown("latency")


def test_the_table_of_overhead() -> None:
    assert commands._table(json.loads((RESULTS / "overhead.json").read_text())) == shown("overhead")
