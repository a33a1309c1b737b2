"""Budgets side by side: which pipelines run, what stands in which cell, and how long it is said to take."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.grid import POLICIES, SELECTORS, Grid, points
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
        assert cell["retention_ci95"] == pytest.approx(0.1 / 0.5), "a share of the yardstick's accuracy"
    lines = grid.table(cells).splitlines()
    assert len(lines) == 2 + len(SELECTORS) * len(grid.policies)
    assert lines[0].split(" | ")[-1].startswith("100 %")


def test_a_picture_shows_every_bar_and_no_share_beyond_all() -> None:
    own = [{"tokens_per_frame": n, "accuracy": share, "ci95": 0.3} for n, share in ((6, 0.2), (13, 0.5), (64, 0.9))]
    drawn = [points(own, number, len(SELECTORS)) for number in range(len(SELECTORS))]
    for _, right, (below, above) in drawn:
        assert [*right, *below, *above] == pytest.approx([20, 50, 90, 20, 30, 30, 30, 30, 10])
    for budget, tokens in enumerate((6, 13, 64)):
        places = [found[0][budget] for found in drawn]
        assert sum(places) / len(places) == pytest.approx(tokens)
        assert all(b - a >= 0.4 for a, b in itertools.pairwise(places))


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
        (("--selectors", "uniform,unifrom"), "unknown method 'unifrom'; did you mean uniform"),
        (("--selectors", "uniform,random,uniform"), "selectors: uniform is given twice"),
        (("--selectors", ","), "selectors: at least one is needed"),
        (("--selectors", "uniform:0.3"), "selectors: 'uniform:0.3' has a value of its own; write uniform"),
        (("--selectors", "recent"), "selectors: 'recent' names the memory recent"),
        (("--selectors", "stc_cacher"), "selectors: 'stc_cacher' must name one compressor, not 0"),
        (("--selectors", "uniform+random"), "selectors: 'uniform+random' must name one compressor, not 2"),
        (("--selectors", "keep_all"), "selectors: keep_all at 0.1: keep_all takes no value"),
        (("--selectors", "random@seed=-1"), "selectors: random@seed=-1 at 0.1: seed"),
    ],
)
def test_wrong_budgets_are_one_clear_line(args: tuple[str, ...], says: str) -> None:
    code, stdout, stderr = run("bench", "budgets", *args)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1


def test_any_compressor_may_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, with settings, with an encoder: what stands in a pipeline does; what is left of it keeps all tokens."""
    default = Grid("recent:2", (0.25,), ("repack",)).names
    assert default[-2:] == ["recent:2+stc_cacher", "recent:2+stc_cacher+stc_pruner:0.25@memory.positions=repack"]
    seen: list[Grid] = []

    def load(*_: Any, **__: Any) -> None:
        raise ValueError("enough")

    monkeypatch.setattr("headrace.engine.load", load)
    monkeypatch.setattr(Grid, "__post_init__", lambda grid: (seen.append(grid), grid._check_selectors()))
    text = "random@seed=3, stc_cacher@refresh_interval=2+stc_pruner@score=dual_anchor"
    run("bench", "budgets", "--budgets", "0.25", "--selectors", text, "--positions", "original", "--memory", "recent:2")
    assert seen[0].names == [
        "recent:2",
        "recent:2+random:0.25@seed=3@memory.positions=original",
        "recent:2+stc_cacher@refresh_interval=2",
        "recent:2+stc_cacher@refresh_interval=2+stc_pruner:0.25@score=dual_anchor@memory.positions=original",
    ]
    assert all(Pipeline.parse(name) for name in seen[0].names)


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
