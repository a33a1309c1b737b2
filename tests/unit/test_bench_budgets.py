"""Budgets side by side: which pipelines run, what stands in which cell, and how long it is said to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.grid import POLICIES, SELECTORS, Grid
from headrace.cli.filling import Estimate
from headrace.cli.output import Output
from headrace.engine import Pipeline
from unit.test_cli import model, objects, run  # noqa: F401 model is a fixture


@given(budgets=st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.5]), min_size=1, unique=True), one=st.booleans())
def test_every_cell_has_its_own_figures(budgets: list[float], one: bool) -> None:
    grid = Grid("recent:2", tuple(budgets), ("original",) if one else tuple(POLICIES))
    names = grid.names
    assert names[0] == "recent:2"
    assert len(names) == len(set(names)) == 2 + len(SELECTORS) * len(budgets) * len(grid.policies)
    keys = ("ci95", "tokens_per_frame", "ms_per_frame", "ms_per_question", "difference_ci95")
    found = [{"pipeline": name, "accuracy": 1 / (2 + i), **dict.fromkeys(keys, 0.1)} for i, name in enumerate(names)]
    cells = grid.rows(found)
    assert len(cells) == len(SELECTORS) * (len(budgets) + 1) * len(grid.policies)
    for cell in cells:
        name = grid.name(cell["selector"], cell["budget"], cell["policy"])
        assert cell["accuracy"] == 1 / (2 + names.index(name))
        assert cell["retention"] == pytest.approx(2 / (2 + names.index(name)))
    lines = grid.table(cells).splitlines()
    assert len(lines) == 2 + len(SELECTORS) * len(grid.policies)
    assert lines[0].split(" | ")[-1].startswith("100 %")


def test_costs_are_means_over_positions() -> None:
    grid = Grid("recent:2", (0.25,), ("repack", "original"))
    dear = {"random": 3.0, "uniform": 5.0, "oracle": 7.0, "stc_pruner": 9.0, "stc": 11.0}

    def cell(policy: str, selector: str, budget: float) -> dict[str, Any]:
        ms = dear[selector] + (4 if policy == "repack" and budget < 1 else 0)
        spent = {"tokens_per_frame": 64 * budget, "ms_per_frame": ms, "ms_per_question": 100 * budget + ms}
        return {"policy": policy, "selector": selector, "budget": budget, **spent}

    cells = [cell(p, s, b) for p in grid.policies for s in SELECTORS for b in (0.25, 1.0)]
    assert grid.costs(cells).splitlines() == [
        "| cost | 25 % | 100 % |",
        "| --- | --- | --- |",
        "| tokens per frame | 16 | 64 |",
        "| `random`, ms per frame + per question | 5 + 30 | 3 + 103 |",
        "| `uniform`, ms per frame + per question | 7 + 32 | 5 + 105 |",
        "| `oracle`, ms per frame + per question | 9 + 34 | 7 + 107 |",
        "| `stc_pruner`, ms per frame + per question | 11 + 36 | 9 + 109 |",
        "| `stc`, ms per frame + per question | 13 + 38 | 11 + 111 |",
    ]


def test_the_command_writes_table_and_picture_and_goes_on(model: str, tmp_path: Path) -> None:  # noqa: F811
    readme, rows, picture = tmp_path / "r.md", tmp_path / "rows.jsonl", tmp_path / "p.png"
    readme.write_text("a\n<!-- bench:budgets -->\nold\n<!-- /bench:budgets -->\nz\n")
    small = ("--exact", "--seconds", "1", "--every", "0.5", "--budgets", "0.25,1", "--memory", "recent:2")
    common = ("bench", "budgets", *small, "--model", model, "--save", str(rows), "--readme", str(readme))
    code, stdout, stderr = run(*common, "--seeds", "1", "--json")
    assert code == 0, stderr
    assert "minutes in all" in stderr
    assert len(rows.read_text().splitlines()) == 12
    before = rows.read_text()
    code, stdout, stderr = run(*common, "--seeds", "2", "--picture", str(picture), "--json")
    assert code == 0, stderr
    assert rows.read_text().startswith(before)
    assert len(rows.read_text().splitlines()) == 24
    cells = [x for x in objects(stdout) if x["event"] == "cell"]
    assert {(x["selector"], x["budget"]) for x in cells} == {(s, b) for s in SELECTORS for b in (0.25, 1.0)}
    assert readme.read_text().startswith("a\n<!-- bench:budgets -->\n| positions | selector | 25 % | 100 % |")
    assert "\n\n| cost | 25 % | 100 % |\n| --- | --- | --- |\n| tokens per frame | " in readme.read_text()
    assert all(cell["ms_per_frame"] > 0 and cell["ms_per_question"] > 0 for cell in cells)
    assert readme.read_text().endswith("<!-- /bench:budgets -->\nz\n")
    assert ", 2 streams of 1 s, exact pixels, questions every 0.5 s, " in readme.read_text()
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--budgets", "0.1,two"), "--budgets: shares with commas"),
        (("--budgets", "30"), "budgets: shares between 0 and 1"),
        (("--budgets", "0.1,0.1"), "each once"),
        (("--positions", "packed"), "positions: 'packed' is unknown; known: both, repack, original"),
    ],
)
def test_wrong_budgets_are_one_clear_line(args: tuple[str, ...], says: str) -> None:
    code, stdout, stderr = run("bench", "budgets", *args)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1


def test_the_estimate_is_what_it_comes_to(capsys: Any) -> None:
    """Frames cost more until a memory of 16 is full; three streams, of which the last needs half of the pipelines."""
    now, pipelines = [0.0], [40, 40, 20]
    clock = Estimate(Output(), 120, pipelines, 8, clock=lambda: now[0])
    for num in pipelines:
        moved = clock.over(lambda: None)
        for frame in range(120):
            now[0] += num * (0.02 if frame < 16 else 0.05) + num * (1.0 if frame % 8 == 7 else 0.0)
            moved()
    said = capsys.readouterr().err
    assert said.count("minutes in all") == 1
    assert abs(int(said.split("about")[1].split()[0]) - now[0] / 60) <= 1


def test_a_memory_may_have_settings():
    grid = Grid(memory="streamingllm:520@memory.sinks=4", budgets=(0.3,), policies=("repack",))
    names = grid.names
    assert "streamingllm:520@memory.sinks=4" in names
    assert "streamingllm:520@memory.sinks=4+random:0.3@memory.positions=repack" in names
    for name in names:
        if "oracle" not in name:
            assert Pipeline.parse(name).memory.sinks == 4
