"""Benchmarks measure what they say."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import headrace
from headrace import video
from headrace.backbones import plain
from headrace.bench import latency
from headrace.bench.accuracy import FIRST_SEED, Setting, majority_row, run_seed
from headrace.bench.bare import BareModel
from headrace.bench.ledger import Ledger, summarise
from headrace.bench.overhead import overhead
from headrace.bench.statistics import Outcome, accuracy
from headrace.bench.table import replace_between, table
from headrace.engine import Engine
from headrace.video.world import World, foreground, questions, vocabulary

SETTING = Setting(seconds=6.0, every_s=3.0, h264=False)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = plain.word_tokenizer(vocabulary())
    plain.save(plain.build(plain.tiny_config(len(tokenizer), clip="frame"), gain=6.0), tokenizer, folder)
    return headrace.load(str(folder), dtype="float32")


def test_shared_encoding_gives_the_answers_of_a_plain_stream(engine: Engine) -> None:
    names = ["dense", "recent:2", "streamingllm:12+uniform:2"]
    rows = run_seed(engine, names, 3, SETTING)
    world = World(FIRST_SEED + 3)
    for name, row in zip(names, rows, strict=True):
        stream, right = engine.open(name), []
        for frame in video.world.frames(world, 0, 12):
            stream.push(frame)
            if (frame.index + 1) % 6 == 0:
                for question in questions(world, frame.index):
                    found = stream.ask(question.text, max_tokens=8)
                    right.append((question.kind, found.text == question.answer))
        assert [(x.kind, x.right) for x in row.outcomes] == right
        assert len(right) > 5
        assert row.memory_bytes == stream.pipeline.memory.num_bytes(stream.state.memory)


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
    # Stream 0 pulls the mean by +1/8, stream 1 by -1/8; two streams, so the variance is doubled.
    assert found.ci95 == pytest.approx(1.96 * math.sqrt(2 * 2 / 64))
    assert accuracy(outcomes[:1] * 4).ci95 == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_accuracy_is_a_mean_over_kinds(rows: list[tuple[str, int, bool]]) -> None:
    found = accuracy([Outcome(*row) for row in rows])
    kinds = {row[0] for row in rows}
    naive = [sum(r for k, _, r in rows if k == kind) / sum(k == kind for k, _, _ in rows) for kind in kinds]
    assert found.macro == pytest.approx(sum(naive) / len(naive))
    assert found.ci95 >= 0


def test_an_interrupted_bench_goes_on(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = Ledger(path, "m", SETTING)
    for row in run_seed(engine, ["dense", "recent:2"], 0, SETTING):
        first.add(row)
    again = Ledger(path, "m", SETTING)
    assert again.has("dense", 0)
    assert not again.has("dense", 1)
    assert summarise(again.rows, ["dense", "recent:2"], 1) == summarise(first.rows, ["dense", "recent:2"], 1)
    assert not Ledger(path, "another model", SETTING).rows
    assert not Ledger(path, "m", Setting(seconds=9.0)).rows
    path.write_text(path.read_text() + "{torn")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        Ledger(path, "m", SETTING)


def test_summaries_are_plain_numbers(engine: Engine) -> None:
    rows = run_seed(engine, ["dense", "uniform:2"], 0, SETTING)
    for result in json.loads(json.dumps(summarise(rows, ["dense", "uniform:2"], 1))):
        assert 0 <= result["accuracy"] <= 1
        assert {"pipeline", "ci95", "by_kind", "tokens_per_frame", "ms_per_frame", "retention"} <= set(result)


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


def test_latency_compares_and_goes_on(tmp_path: Path) -> None:
    setting = latency.Setting(shape="tiny", lengths=(2, 6), dtype="float32", pipeline="stc_cacher+stc_pruner:2")
    bench, frames = latency.Bench(setting), list(video.world.frames(World(0), 0, 6))
    run = bench.run(frames)
    assert [len(ms) for ms in run.frames["dense"].values()] == [6] * 5
    assert run.kept == {"dense": 4.0, "stc_cacher+stc_pruner:2": 2.0}
    assert set(run.answers["dense"]) == {"2", "6"}
    path = tmp_path / "latency.json"
    latency.write_runs(path, setting, [run], {})
    (again,) = latency.read_runs(path, setting)
    assert latency.summarise(setting, [again]) == latency.summarise(setting, [run])
    with pytest.raises(ValueError, match="another setting"):
        latency.read_runs(path, dataclasses.replace(setting, lengths=(2, 4)))
    with pytest.raises(ValueError, match="ends after 5"):
        bench.run(frames[:5])


def test_latency_ratios_by_hand() -> None:
    setting = latency.Setting(lengths=(2, 3), pipeline="x")
    run = latency.Run(kept={})
    for ours, dense in ((1.0, 2.0), (2.0, 4.0), (6.0, 4.0)):
        for stage in ("pixels", *latency.ALL):
            run.note("x", stage, ours)
            run.note("dense", stage, dense)
        run.note("transformers", "prefill", 5.0)
    found = latency.summarise(setting, [run])
    assert found["vision_ratio"] == 0.9
    assert found["prefill_ratio"] == {"2": 0.3, "3": 0.6}
    assert found["prefill_ratio_own"] == {"2": 0.5, "3": 0.9}
    assert found["end_to_end_ratio"] == pytest.approx(36 / 35)
