"""Benchmarks measure what they say."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import headrace
from headrace import video
from headrace.backbones import plain
from headrace.bench.accuracy import FIRST_SEED, Setting, majority_row, run_seed
from headrace.bench.bare import BareModel
from headrace.bench.ledger import Ledger, summarise
from headrace.bench.machine import place
from headrace.bench.overhead import overhead
from headrace.bench.speaking import choose
from headrace.bench.statistics import Outcome, accuracy, quantile
from headrace.bench.table import replace_between, table
from headrace.cli import app
from headrace.cli.filling import told_model
from headrace.engine import Engine, Stream
from headrace.video.world import (
    ALL_INSTRUCTIONS,
    ALL_KINDS,
    GROUPS,
    World,
    foreground,
    questions,
    watches,
)
from headrace.video.world.marking import FRAME_S, Marker, Tally, total
from unit.tiny import save_tiny

SETTING = Setting(seconds=6.0, every_s=3.0, h264=False)
MACHINE = {"cpu": "a cpu", "torch": "2", "transformers": "5", "headrace": "0", "threads": 1, "date": "2026-01-01"}
HERE = place(MACHINE, "cpu")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return headrace.load(save_tiny(tmp_path_factory.mktemp("model")), dtype="float32")


def test_shared_encoding_gives_the_answers_of_a_plain_stream(engine: Engine) -> None:
    names = ["dense", "recent:2", "streamingllm:12+uniform:2"]
    rows = run_seed(engine, names, 3, SETTING)
    world = World(FIRST_SEED + 3)
    for name, row in zip(names, rows, strict=True):
        stream, right = engine.open(name), []
        for frame in video.world.frames(world, 0, 12):
            stream.push(frame)
            if (frame.index + 1) % 6 == 0:
                for question in questions(world, frame.index, kinds=tuple(ALL_KINDS), fair=True):
                    found = stream.ask(question.text, max_tokens=8)
                    right.append((question.kind, found.text == question.answer))
        assert [(x.kind, x.right) for x in row.outcomes] == right
        assert len(right) > 5
        assert row.watched == watched(engine.open(f"{name}+eos_threshold"), world, 12)
        assert row.memory_bytes == stream.pipeline.memory.num_bytes(stream.state.memory)


def test_a_tower_that_takes_pairs_of_frames_shares_them(tmp_path: Path, monkeypatch: Any) -> None:
    """Every other question comes when a frame waits for its partner; texts and scores are those of plain streams."""
    plain.save(*plain.tiny("qwen2_5_vl", ["what", "is", "there", "now"]), tmp_path)
    engine, told = headrace.load(str(tmp_path), dtype="float32"), []
    names = ["stc_cacher:0.4", "recent:2+uniform:2"]
    monkeypatch.setattr("headrace.bench.accuracy.matches", lambda text, answer: told.append(text) or True)
    setting = Setting(seconds=4.5, every_s=1.5, h264=False, watches=0)
    rows, world = run_seed(engine, names, 3, setting), World(FIRST_SEED + 3)
    said: dict[str, list[list[str]]] = {}
    for name in names:
        stream, said[name] = engine.open(name), []
        for frame in video.world.frames(world, 0, 9):
            stream.push(frame)
            if (frame.index + 1) % 3 == 0:
                asked = questions(world, frame.index, kinds=tuple(ALL_KINDS), fair=True)
                said[name].append([stream.ask(question.text, max_tokens=8).text for question in asked])
    assert told == [text for moment in zip(*said.values(), strict=True) for own in moment for text in own]
    assert len(set(told)) > 3
    assert all(row.tokens_per_frame > 0 for row in rows)


def watched(stream: Stream, world: World, num: int) -> dict[str, Tally]:
    """What comes of standing instructions, from all that was said."""
    chosen = {stream.watch(watch.text, max_tokens=8): watch for watch in choose(world, num, 2)}
    said = [event for frame in video.world.frames(world, 0, num) for event in stream.push(frame)]
    found = {}
    for number, watch in chosen.items():
        times = [event.time_s for event in said if event.number == number]
        hits = matched(times, list(watch.events_s))
        found[watch.text] = Tally(hits, len(times) - hits, len(watch.events_s) - hits)
    return found


def matched(said: list[float], events: list[float]) -> int:
    """The most pairs within one frame, by trying everything."""
    if not said:
        return 0
    first, rest = said[0], said[1:]
    best = matched(rest, events)
    for event in events:
        if abs(event - first) <= FRAME_S + 1e-6:
            best = max(best, 1 + matched(rest, [x for x in events if x != event]))
    return best


@given(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)))
def test_as_many_events_are_matched_as_can_be(said: set[int], events: set[int]) -> None:
    marker = Marker([event / 2 for event in sorted(events)])
    right, late = [], []
    for tick in range(14):
        right += [marker.said(tick / 2)] if tick in said else []
        late += marker.overdue(tick / 2)
    hits = matched([tick / 2 for tick in sorted(said)], [event / 2 for event in sorted(events)])
    assert sum(right) == hits
    assert marker.tally() == Tally(hits, len(said) - hits, len(events) - hits)
    assert len(late + marker.open_s) == len(events) - hits
    assert all(event <= 5.5 for event in late)


def test_speaking_up_by_hand() -> None:
    marker = Marker([1.0, 4.0, 4.5, 9.0])
    assert [marker.said(t) for t in (0.5, 2.0, 4.5, 5.0, 5.5)] == [True, False, True, True, False]
    tally = marker.tally()
    assert tally == Tally(3, 2, 1)
    assert (tally.precision, tally.recall, tally.f1) == (0.6, 0.75, pytest.approx(2 / 3))
    assert total([tally, Tally(1, 0, 1)]) == Tally(4, 2, 2)
    assert Tally().f1 == Tally(0, 0, 3).f1 == Tally(0, 3, 0).f1 == 0.0


def test_instructions_that_are_watched_come_true_at_least_twice() -> None:
    for seed in range(4):
        world = World(FIRST_SEED + seed)
        chosen = choose(world, 120, 3)
        assert len(chosen) == 3
        assert chosen == choose(world, 120, 3)
        assert all(len(watch.events_s) >= 2 for watch in chosen)
        assert all(watch in watches(world, 0, 120, instructions=ALL_INSTRUCTIONS) for watch in chosen)
    assert len({tuple(watch.text for watch in choose(World(seed), 120, 2)) for seed in range(6)}) > 2
    assert choose(World(0), 120, 0) == []


def test_a_stream_that_knows_everything_scores_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is silent scores nothing, one that always speaks has full recall."""
    from headrace.methods.speakers.eos_threshold import EosThreshold
    from headrace.types import Decision

    setting = dataclasses.replace(SETTING, seconds=20.0, every_s=20.0)
    chosen = {watch.text: set(watch.events_s) for watch in choose(World(FIRST_SEED), 40, 2)}

    def scores(speaks: Callable[[str, float], bool]) -> tuple[float, ...]:
        def step(self: Any, state: None, seen: Any) -> Any:
            text = seen.reply.instruction
            return None, Decision(speaks(text, seen.time_s), text, 0.5)

        monkeypatch.setattr(EosThreshold, "step", step)
        (found,) = summarise(run_seed(engine, ["recent:1"], 0, setting), ["recent:1"], 1)
        assert found["watches"] == 2
        assert found["by_group"][GROUPS[2]] == found["speak_f1"]
        return found["speak_f1"], found["speak_precision"], found["speak_recall"]

    assert scores(lambda text, time_s: time_s in chosen[text]) == (1.0, 1.0, 1.0)
    assert scores(lambda text, time_s: time_s - FRAME_S in chosen[text])[2] > 0.8, "one frame late still counts"
    assert scores(lambda text, time_s: False) == (0.0, 0.0, 0.0)
    always = scores(lambda text, time_s: True)
    assert always[2] == 1.0
    assert always[1] == pytest.approx(sum(map(len, chosen.values())) / 80)


def test_rows_count_tokens(engine: Engine) -> None:
    names = ["dense", "uniform:1", "oracle:2", "text-only"]
    rows = run_seed(engine, names, 0, SETTING)
    assert [row.tokens_per_frame for row in rows] == [4, 1, 2, 0]
    assert all(row.ms_per_frame > 0 for row in rows[:3])


def test_streams_through_h264(engine: Engine) -> None:
    (row,) = run_seed(engine, ["recent:1"], 0, Setting(seconds=3.0, every_s=3.0))
    assert row.outcomes


def test_the_oracle_keeps_the_foreground() -> None:
    from headrace.bench.rows import Oracle
    from headrace.types import VisualTokens

    grid, world = (8, 8), World(5)
    rows, cols = (x.flatten() for x in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    tokens = VisualTokens(torch.zeros(64, 4), torch.zeros(64, dtype=torch.int64), rows, cols, grid, (9,), (4.5,))
    shown = torch.from_numpy(foreground(world, 9, grid)).flatten()
    num = int(shown.sum())
    assert 0 < num < 64

    def kept(keep: int) -> torch.Tensor:
        oracle = Oracle(
            keep=keep, foreground=lambda index, grid: torch.from_numpy(foreground(world, index, grid)).flatten()
        )
        return oracle.step(None, tokens)[1].indices

    assert torch.equal(kept(num), torch.nonzero(shown).squeeze(1))
    assert shown[kept(num - 1)].all()
    assert shown[kept(num + 5)].sum() == num
    assert len(kept(num + 5)) == num + 5


def test_majority_is_below_truth_and_above_nothing() -> None:
    outcomes = [x for seed in range(3) for x in majority_row(seed, Setting(seconds=60.0)).outcomes]
    assert 0.1 < accuracy(outcomes).macro < 0.6


def test_accuracy_by_hand() -> None:
    outcomes = [Outcome("a", 0, True), Outcome("a", 1, False), Outcome("b", 0, True), Outcome("b", 1, True)]
    found = accuracy(outcomes)
    assert (found.macro, found.micro, found.by_kind) == (0.75, 0.75, {"a": 0.5, "b": 1.0})
    # Stream 0 pulls the mean by +1/8, stream 1 by -1/8; two streams, so the variance is doubled, with one degree left.
    assert found.ci95 == pytest.approx(12.7062 * math.sqrt(2 * 2 / 64))
    # One stream. Kind a: 1 of 2, with one more answered like the mean of 3/4: 7/12; kind b: 1 of 1, likewise: 7/8.
    one = accuracy([x for x in outcomes if x.seed == 0] + [Outcome("a", 0, False)])
    assert one.macro == 0.75
    within = (7 / 12 * 5 / 12 / 2 + 7 / 8 * 1 / 8) / 4
    extra = 1.959964**2 / (4 / (1 / 2 + 1))  # the kinds' questions tell as much as 8/3 equal ones
    wilson = (0.75 + extra / 2) / (1 + extra), math.sqrt(1.959964**2 * within + extra**2 / 4) / (1 + extra)
    assert one.ci95 == pytest.approx(0.75 - wilson[0] + wilson[1])
    assert one.ci95 > 1.959964 * math.sqrt(within)
    assert accuracy(outcomes[:1] * 4).ci95 == pytest.approx(1.959964**2 / (4 + 1.959964**2)), "Wilson, 4 of 4"


def test_answers_that_are_all_alike_are_not_certain() -> None:
    """The interval holds the truth at least nine times in ten, though often all answers are right on all streams."""
    for share, streams, num in ((0.95, 3, 9), (0.95, 1, 27), (0.99, 3, 9), (0.8, 3, 9), (0.05, 3, 9)):
        chance, held = random.Random(1), 0
        for _ in range(500):
            rows = [Outcome("a", seed, chance.random() < share) for seed in range(streams) for _ in range(num)]
            found = accuracy(rows)
            held += abs(found.macro - share) <= found.ci95
        assert held >= 450, (share, streams)
    alike = accuracy([Outcome("a", seed, True) for seed in range(3) for _ in range(9)])
    assert 0.05 < alike.ci95 < 0.15
    again = [Outcome("a", seed, True) for seed in range(3) for _ in range(9 * 4)]
    assert accuracy(again, repeats=4).ci95 == pytest.approx(alike.ci95), "the same questions, four times each"
    assert accuracy(again).ci95 < alike.ci95 / 3


def test_a_kind_that_one_stream_asked_is_not_certain() -> None:
    """Twenty questions of one kind on four streams, and a second kind that only stream 0 was asked, once or often."""
    many = [Outcome("a", seed, i % 5 > 0) for seed in range(4) for i in range(20)]
    widths = [accuracy([*many, *(Outcome("b", 0, i % 2 == 0) for i in range(num))]).ci95 for num in (2, 8, 32, 128)]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] > 1.96 * math.sqrt(0.25 / 9) / 2, "half of the binomial's width, as one kind of two"
    chance, held = random.Random(2), 0
    for _ in range(500):
        rows = [Outcome("a", seed, chance.random() < 0.8) for seed in range(4) for _ in range(20)]
        found = accuracy([*rows, *(Outcome("b", 0, chance.random() < 0.8) for _ in range(8))])
        held += abs(found.macro - 0.8) <= found.ci95
    assert held >= 450


def test_an_interval_of_a_few_streams_holds_what_it_says() -> None:
    """Student's quantiles, as every table has them; and 95 of 100 intervals hold the truth, however few the streams."""
    table = {1: 1.96, 2: 12.706, 3: 4.303, 4: 3.182, 6: 2.571, 11: 2.228, 12: 2.201, 21: 2.086, 25: 2.064, 121: 1.980}
    assert all(abs(quantile(num) - wanted) < 1e-3 for num, wanted in table.items())
    assert [quantile(num) for num in range(2, 60)] == sorted((quantile(num) for num in range(2, 60)), reverse=True)
    chance = random.Random(4)
    for streams in (3, 4, 8):
        held = 0
        for _ in range(400):
            shares = [min(1.0, max(0.0, chance.gauss(0.7, 0.15))) for _ in range(streams)]
            found = accuracy(
                [Outcome("a", i, chance.random() < share) for i, share in enumerate(shares) for _ in "x" * 30]
            )
            held += abs(found.macro - 0.7) <= found.ci95
        assert 0.92 <= held / 400 <= 0.98


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_accuracy_is_a_mean_over_kinds(rows: list[tuple[str, int, bool]]) -> None:
    found = accuracy([Outcome(*row) for row in rows])
    kinds = {row[0] for row in rows}
    naive = [sum(r for k, _, r in rows if k == kind) / sum(k == kind for k, _, _ in rows) for kind in kinds]
    assert found.macro == pytest.approx(sum(naive) / len(naive))
    assert found.ci95 >= 0


def test_an_interrupted_bench_goes_on(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = Ledger(path, "m", SETTING, HERE)
    for row in run_seed(engine, ["dense", "recent:2"], 0, SETTING):
        first.add(row)
    again = Ledger(path, "m", SETTING, HERE)
    assert again.has("dense", 0)
    assert not again.has("dense", 1)
    assert summarise(again.rows, ["dense", "recent:2"], 1) == summarise(first.rows, ["dense", "recent:2"], 1)
    assert not Ledger(path, "another model", SETTING, HERE).rows
    assert not Ledger(path, "m", Setting(seconds=9.0), HERE).rows
    assert not Ledger(path, "m", dataclasses.replace(SETTING, watches=1), HERE).rows
    older = {"model": "m", "level": "standard", "seconds": 6.0, "every_s": 3.0, "h264": False}
    row = {"name": "recent:4", "pipeline": "", "seed": 0, "outcomes": [["where", True]], "memory_bytes": 1}
    path.write_text(path.read_text() + json.dumps({"key": older, "row": row}) + "\n")
    assert len(Ledger(path, "m", SETTING, HERE).rows) == 2, "rows of an older layout are passed over"
    path.write_text(path.read_text() + "{torn\n")
    with pytest.raises(ValueError, match="line 4 is damaged"):
        Ledger(path, "m", SETTING, HERE)


@pytest.mark.parametrize(
    ("machine", "device"),
    [
        (MACHINE, "cuda"),
        (MACHINE | {"accelerator": "cuda"}, "cpu"),
        *((MACHINE | {key: "another"}, "cpu") for key in ("cpu", "torch", "transformers", "headrace", "threads")),
    ],
)
def test_rows_of_another_place_are_passed_over(machine: dict[str, Any], device: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Ledger(path, "m", SETTING, HERE).add(majority_row(0, SETTING))
    assert not Ledger(path, "m", SETTING, place(machine, device)).rows
    assert Ledger(path, "m", SETTING, place(MACHINE | {"date": "another day"}, torch.device("cpu"))).rows


def test_the_command_measures_anew_at_another_place(tmp_path: Path) -> None:
    """Same file, same setting, another number type: rows are added, not taken."""
    model, path = str(save_tiny(tmp_path / "model")), tmp_path / "rows.jsonl"
    words = ["bench", "accuracy", "--model", model, "--pipelines", "recent:1", "--seconds", "4", "--seeds", "1"]
    words += ["--exact", "--watches", "0", "--device", "cpu", "--save", str(path)]
    for dtype, lines in (("float32", 1), ("float32", 1), ("bfloat16", 2), ("float32", 2)):
        found = CliRunner().invoke(app, [*words, "--dtype", dtype])
        assert found.exit_code == 0, found.output
        assert len(path.read_text().splitlines()) == lines
    key = json.loads(path.read_text().splitlines()[0])["key"]
    assert key["device"] == "cpu"
    assert key["threads"] == torch.get_num_threads()
    assert key["torch"] == torch.__version__


def test_captions_say_what_is_not_the_default(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "model"))
    words = ["bench", "accuracy", "--model", model, "--pipelines", "recent:1", "--seconds", "4", "--seeds", "1"]
    for more, says in (
        (["--watches", "0", "--dtype", "float32"], f": {model}, standard level, 1 streams of 4 s, "),
        (
            ["--exact", "--kinds", "colour,where", "--every", "2", "--dtype", "bfloat16"],
            f": {model} (bfloat16), standard level, 1 streams of 4 s, exact pixels,"
            " questions of the kinds colour, where every 2 s, ",
        ),
    ):
        found = CliRunner().invoke(app, [*words, "--device", "cpu", *more])
        assert found.exit_code == 0, found.output
        assert says in found.stdout
    assert told_model("nano", "int8", torch.bfloat16) == "nano (int8 weights, bfloat16)"
    assert told_model("nano", "full", torch.float32) == "nano"


def test_summaries_are_plain_numbers(engine: Engine) -> None:
    rows = run_seed(engine, ["dense", "uniform:2"], 0, SETTING)
    for result in json.loads(json.dumps(summarise(rows, ["dense", "uniform:2"], 1))):
        assert 0 <= result["accuracy"] <= 1
        assert {"pipeline", "ci95", "by_kind", "tokens_per_frame", "ms_per_frame", "retention"} <= set(result)
        assert set(result["by_group"]) == set(GROUPS)
        own = [ALL_KINDS[kind].group for kind in result["by_kind"]]
        by_hand = [share for kind, share in result["by_kind"].items() if ALL_KINDS[kind].group == GROUPS[0]]
        assert result["by_group"][GROUPS[0]] == pytest.approx(sum(by_hand) / own.count(GROUPS[0]))
        assert (result["speak_f1"] is None) == (result["watches"] == 0)
        assert result["ms_per_watch"] is None or result["ms_per_watch"] > 0


def test_nothing_watched_is_no_score(engine: Engine) -> None:
    rows = run_seed(engine, ["recent:1", "text-only"], 0, dataclasses.replace(SETTING, watches=0))
    (*found,) = summarise([*rows, majority_row(0, SETTING)], ["recent:1", "text-only", "majority"], 1)
    assert [(x["speak_f1"], x["watches"], x["by_group"][GROUPS[2]]) for x in found] == [(None, 0, None)] * 3
    blind, sees = run_seed(engine, ["text-only", "recent:1"], 0, SETTING)
    assert (len(blind.watched), len(sees.watched)) == (0, 2)
    with pytest.raises(ValueError, match="watches"):
        Setting(watches=-1)


def test_overhead_runs_every_contender() -> None:
    found = overhead(shape="tiny", frames=4, dtype=torch.float32)
    assert found.rows_per_frame == 4
    assert min(found.engine_ms, found.bare_ms, found.prefill_ms, found.transformers_ms) > 0
    with pytest.raises(ValueError, match="frames"):
        overhead(shape="tiny", frames=1)


def test_the_bare_model_does_the_same_work() -> None:
    model = plain.build(plain.tiny_config(64), gain=6.0)
    bare, rows = BareModel(model, 40), torch.randn(30, 32)
    with torch.no_grad():
        parts = torch.cat([bare.prefill(part) for part in rows.split(10)])
    whole, _ = plain.prefill(model, rows)
    assert (parts - whole).abs().max() < 1e-5


def test_tables_replace_what_stood_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t -->\nold\n<!-- /t -->\nb\n")
    replace_between(page, "t", table(["x"], [["1"]]))
    assert page.read_text() == "a\n<!-- t -->\n| x |\n| --- |\n| 1 |\n<!-- /t -->\nb\n"
    with pytest.raises(ValueError, match="holds no"):
        replace_between(page, "u", "")


@pytest.mark.parametrize("name", ["accuracy", "overhead"])
def test_a_page_without_marks_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    model = ["--model", "nowhere"] if name == "accuracy" else ["--model-shape", "nowhere"]
    found = CliRunner().invoke(app, ["bench", name, *model, "--readme", str(page)])
    assert found.exit_code == 2
    assert f"bench:{name}" in found.stderr
