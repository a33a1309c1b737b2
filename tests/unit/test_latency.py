"""The latency bench: figures by hand, floors, records that go on."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace import video
from headrace.backbones import plain
from headrace.backbones.graphs import Graphs
from headrace.bench import latency, ratios, record, space
from headrace.bench.latency import DENSE, TRANSFORMERS, Bench, Run, Setting
from headrace.bench.products import Counting, Floor, Product, decoder, flops
from headrace.ops import blocked
from headrace.types import Frame
from headrace.video.world import World

OURS = "stc_cacher+stc_pruner:2"
TINY = Setting(shape="tiny", lengths=(2, 6), dtype="float32", pipeline=OURS)
MACHINE = {"cpu": "a cpu", "torch": "2", "transformers": "5", "headrace": "0", "date": "2026-01-01"}


def frames(num: int) -> list[Frame]:
    return list(video.world.frames(World(0), 0, num))


@pytest.fixture(scope="module")
def bench() -> Bench:
    made = Bench(TINY)
    made.warm_up(frames(4))
    return made


@pytest.fixture(scope="module")
def run(bench: Bench) -> Run:
    made = Run()
    bench.run(frames(6), made)
    return made


def by_hand(stages: tuple[tuple[float, float], ...], *, theirs: float = 5.0) -> Run:
    """A run whose stages all take (ours, dense) ms per frame, and transformers the same on every frame."""
    made = Run(kept={OURS: [1] * len(stages), DENSE: [4] * len(stages)})
    made.kinds = {OURS: ["refresh", "selective"] * len(stages), DENSE: ["dense"] * len(stages)}
    for ours, dense in stages:
        for stage in ("pixels", *ratios.ALL):
            made.note(OURS, stage, ours)
            made.note(DENSE, stage, dense)
        made.note(TRANSFORMERS, "prefill", theirs)
    return made


def test_a_run_has_every_figure(run: Run) -> None:
    assert [len(ms) for ms in run.frames[DENSE].values()] == [6] * 5
    assert run.kept == {DENSE: [4] * 6, OURS: [2] * 6}
    assert run.kinds == {DENSE: ["dense"] * 6, OURS: ["refresh", "selective"] * 3}
    assert set(run.answers[DENSE]) == {"2", "6"}
    assert run.memory_bytes[DENSE] > run.memory_bytes[OURS] > 0
    assert run.reached == 6


def test_transformers_gets_every_token_of_dense(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    push, prefill, made, taken = Bench._push, plain.prefill, [], []

    def pushing(self: Bench, run: Run, name: str, *more: Any) -> None:
        push(self, run, name, *more)
        if name == DENSE:
            made.append(self._backbone.projected.clone())

    def prefilling(model: Any, embeds: torch.Tensor, *more: Any) -> Any:
        taken.append(embeds.clone())
        return prefill(model, embeds, *more)

    monkeypatch.setattr(Bench, "_push", pushing)
    monkeypatch.setattr(plain, "prefill", prefilling)
    bench.run(frames(6), Run())
    _, *shown = taken  # the first is what stands before all frames
    assert [len(tokens) for tokens in shown] == [4] * 6
    assert all(map(torch.equal, shown, made))


def test_who_comes_first_hangs_together_with_no_refresh_interval(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    push, order = Bench._push, []

    def pushing(self: Bench, run: Run, name: str, *more: Any) -> None:
        order.append(name)
        push(self, run, name, *more)

    monkeypatch.setattr(Bench, "_push", pushing)
    bench.run(frames(8), Run())
    first = order[::2]
    for interval in (1, 2, 4):
        for step in range(interval):
            own = first[step::interval]
            assert own.count(DENSE) == own.count(OURS)


def test_the_tower_s_time_holds_neither_pixels_nor_projection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_take", lambda stream, step: None)
    monkeypatch.setattr(bench._backbone, "ms", {"pixels": 30.0, "project": 20.0})
    report = SimpleNamespace(stage_ms={"encode": 100.0, "compress": 3.0, "prefill": 40.0}, tokens_kept=4)
    shown: Any = SimpleNamespace(report=report, pipeline=bench._pipelines[DENSE], state=SimpleNamespace(encoder=None))
    made = Run()
    bench._push(made, DENSE, shown, ())
    (found,) = made.frames.values()
    assert found == {"pixels": [30.0], "tower": [50.0], "project": [20.0], "compress": [3.0], "prefill": [40.0]}


@pytest.mark.parametrize("pipeline", [OURS, "stc_adaptive+stc_pruner:2", "uniform:2"])
def test_everything_is_recorded_before_the_first_run(pipeline: str) -> None:
    bench, made = Bench(dataclasses.replace(TINY, pipeline=pipeline)), []

    def record(work, inputs):
        made.append(work)
        return lambda inputs: work(*inputs)

    inner = bench._backbone._inner
    inner._graphs, inner._rows = Graphs(record), Graphs(record, most=64)
    bench.warm_up(frames(4))
    before = len(made)
    bench.run(frames(6), Run())
    assert before == len(made) > 0


def test_frames_may_be_taken_in_together(tmp_path: Path) -> None:
    setting = dataclasses.replace(TINY, lengths=(2, 3), chunk_frames=3)
    bench, run = Bench(setting), Run()
    bench.warm_up(frames(12))
    bench.run(frames(9), run)
    assert run.kept == {DENSE: [12] * 3, OURS: [6] * 3}, "3 frames of 4 tokens, or of 2"
    assert run.kinds[OURS] == ["refresh", "selective", "refresh"]
    found = ratios.summarise(setting, [run], bench.costs(run))
    assert found is not None
    assert ", frames: 3 (a frame is 3 taken in together)" in ratios.lines(setting, found)[0]
    path = tmp_path / "together.json"
    record.Record(setting, MACHINE).write(path)
    with pytest.raises(ValueError, match="chunk_frames 3, not 1"):
        record.read(path, dataclasses.replace(setting, chunk_frames=1), MACHINE)


def test_a_source_that_ends_early_is_named(bench: Bench) -> None:
    """It may reach some lengths; where it reaches none there is nothing to tell."""
    left, whole = Run(), Run()
    bench.run(frames(5), whole)
    assert whole.reached == 5
    assert set(whole.answers[DENSE]) == {"2"}
    assert whole.memory_bytes[DENSE] > 0
    assert latency.reached(TINY, 5, 1).lengths == (2,)
    assert latency.reached(TINY, 6, 1) == TINY
    with pytest.raises(ValueError, match="world:0 ends after 1 frames; the bench needs 2"):
        bench.run(frames(1), left)
    assert left.reached == 1


def test_steps_are_known_without_the_model(bench: Bench) -> None:
    assert latency.unit_of(TINY) == bench.unit == 1
    pairs = dataclasses.replace(TINY, shape="qwen2.5-vl-3b", dtype="bfloat16", chunk_frames=3)
    assert latency.unit_of(pairs) == 4


def test_a_memory_that_postpones_prefill_gets_no_credit_for_it() -> None:
    setting = Setting(lengths=(2,), pipeline="recent:4@memory.turn_rows=64", shape="tiny")
    made = by_hand(((1, 2), (2, 4)))
    for figures in (made.frames, made.kinds, made.kept):
        figures[setting.pipeline] = figures.pop(OURS)
    found = ratios.summarise(setting, [made], {})
    assert found is not None
    assert found["postponed"]
    missing = ("prefill_ratio", "prefill_ratio_own", "end_to_end_ratio", "end_to_end_ratio_own", "end_to_end_floor")
    assert {found[key] for key in missing} == {found["by_run"]["end_to_end_ratio"]} == {None}
    assert (found["vision_ratio"], found["own_prefill_ratio"]) == (0.5, {"2": 0.6})
    for text in ("\n".join(ratios.lines(setting, found)), ratios.page(setting, found, MACHINE)):
        assert "runs its frames when it is asked, so there is no ratio of prefill or end to end" in text
        assert "prefill / transformers dense" not in text
    at_once = ratios.summarise(Setting(lengths=(2,), pipeline=OURS), [by_hand(((1, 2), (2, 4)))], {})
    assert at_once is not None
    assert not at_once["postponed"]
    assert "when it is asked" not in ratios.page(Setting(lengths=(2,), pipeline=OURS), at_once, MACHINE)


def test_ratios_by_hand() -> None:
    setting = Setting(lengths=(2, 3), pipeline=OURS)
    found = ratios.summarise(setting, [by_hand(((1, 2), (2, 4), (6, 4)))], {})
    assert found is not None
    assert found["vision_ratio"] == 0.9
    assert found["prefill_ratio"] == {"2": 0.3, "3": 0.6}
    assert found["prefill_ratio_own"] == {"2": 0.5, "3": 0.9}
    assert found["own_prefill_ratio"] == {"2": 0.6, "3": 10 / 15}
    assert found["end_to_end_ratio"] == pytest.approx(36 / 35)
    assert found["vision_floor"] is None
    assert found["prefill_floor"] is None
    assert found["tokens_per_frame"] == {OURS: 1.0, DENSE: 4.0}


def test_ratios_are_medians_over_runs() -> None:
    runs = [by_hand(((ours, 4.0), (ours, 4.0))) for ours in (1.0, 2.0, 40.0)]
    found = ratios.summarise(Setting(lengths=(2,), pipeline=OURS), runs, {})
    assert found is not None
    assert found["vision_ratio"] == 0.5
    assert found["by_run"]["vision_ratio"] == [0.25, 0.5, 10.0]
    assert found["stages"][OURS]["project"] == {
        "median": 2.0,
        "low": 1.0,
        "high": 40.0,
        "flops": None,
        "floor_ms": None,
    }


def test_a_length_counts_once_every_run_has_reached_it() -> None:
    runs = [by_hand(((1, 2),) * steps) for steps in (3, 2)]
    found = ratios.summarise(Setting(lengths=(2, 3), pipeline=OURS), runs, {})
    assert found is not None
    assert found["frames"] == 2
    assert set(found["prefill_ratio"]) == {"2"}


def test_stages_tell_what_the_tower_did() -> None:
    found = ratios.stages([by_hand(((8, 9), (3, 9), (10, 9), (5, 9)))], {}, 4)
    assert found[OURS]["tower_refresh"]["median"] == 9.0
    assert found[OURS]["tower_selective"]["median"] == 4.0
    assert found[DENSE]["tower_dense"]["median"] == 9.0
    assert "tower" not in found[OURS]


@pytest.mark.parametrize("product", [Product(1, 3, 5, 7), Product(2, 3, 5, 7)])
def test_a_floor_on_an_accelerator_is_the_time_of_many_products_launched_at_once(product: Product) -> None:
    took = []

    def record(work, inputs):
        with Counting() as seen:
            work(*inputs)
        took.append(seen.products)

        def replay(inputs):
            time.sleep(0.08)
            return work(*inputs)

        return replay

    floor = Floor(torch.float32, torch.device("cpu"), record)
    assert 80 / 64 <= floor.ms({product: 3}) / 3 < 2 * 80 / 64
    assert took == [{product: 64}]


def test_floors_by_hand() -> None:
    cost = {"flops": 1.0, "floor_ms": 2.0}
    costs: dict[str, dict[str, Any]] = {
        OURS: {
            "tower_refresh": {"flops": 10, "floor_ms": 8.0},
            "tower_selective": {"flops": 4, "floor_ms": 4.0},
            "project": cost,
            "prefill": {"flops": [1, 1, 1], "floor_ms": [1.0, 2.0, 3.0]},
        },
        DENSE: {"tower_dense": {"flops": 10, "floor_ms": 8.0}, "project": cost},
        TRANSFORMERS: {"prefill": {"flops": [4, 4, 4], "floor_ms": [3.0, 3.0, 6.0]}},
    }
    setting = Setting(lengths=(2, 3), pipeline=OURS)
    made = by_hand(((1, 2), (1, 2), (1, 2)))
    found = ratios.summarise(setting, [made], costs)
    assert found is not None
    assert found["vision_floor"] == pytest.approx((8 + 4 + 8 + 6) / (3 * 10))
    assert found["vision_floor_flops"] == pytest.approx((10 + 4 + 10 + 3) / 33)
    assert found["prefill_floor"] == {"2": 0.5, "3": 0.5}
    assert found["prefill_floor_flops"] == {"2": 0.25, "3": 0.25}
    assert found["end_to_end_floor"] == pytest.approx((26 + 6) / (30 + 12))
    del costs[OURS]["tower_selective"]
    found = ratios.summarise(setting, [made], costs)
    assert found is not None
    assert found["vision_floor"] is None
    assert found["prefill_floor"] == {"2": 0.5, "3": 0.5}


def test_products_are_counted() -> None:
    conv = torch.nn.Conv2d(3, 5, 4, stride=4)
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 9, 8)
    with torch.no_grad(), Counting() as found:
        torch.nn.functional.linear(torch.randn(2, 7, 3), torch.randn(4, 3), torch.randn(4))
        torch.randn(7, 3) @ torch.randn(3, 2)
        torch.randn(2, 7, 3) @ torch.randn(2, 3, 4)
        conv(torch.randn(2, 3, 8, 12))
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
        blocked.attend(q[0], k[0], k[0], 0.3)
    assert found.products == {
        Product(1, 14, 3, 4): 1,
        Product(1, 7, 3, 2): 1,
        Product(2, 7, 3, 4): 1,
        Product(1, 12, 48, 5): 1,
        Product(8, 6, 8, 9): 1,
        Product(8, 6, 9, 8): 1,
        Product(1, 6, 8, 9): 4,
        Product(1, 6, 9, 8): 4,
    }
    assert flops({Product(2, 3, 4, 5): 10}) == 2 * 2 * 3 * 4 * 5 * 10


def test_a_tower_costs_what_its_shapes_say(bench: Bench, run: Run) -> None:
    """Tiny: 16 patches of 3 * 7 * 7 values, width 24, 3 layers, MLP 48; 4 patches a step between refreshes."""
    n, d, inner, u = 16, 24, 48, 4
    patch, layer = 2 * n * 147 * d, 4 * n * d * d + 2 * n * n * d + 2 * n * d * inner
    some = n * d * d + 3 * u * d * d + 2 * u * n * d + 2 * u * d * inner
    costs = bench.costs(run)
    assert costs[DENSE]["tower_dense"]["flops"] == patch + 2 * 3 * layer
    assert costs[OURS]["tower_refresh"]["flops"] == patch + 2 * 3 * layer
    assert costs[OURS]["tower_selective"]["flops"] == patch + 2 * 3 * some
    assert costs[OURS]["project"]["flops"] == 2 * n * (24 * 32 + 32 * 32)
    assert all(
        cost["floor_ms"] > 0 for name in (DENSE, OURS) for stage, cost in costs[name].items() if stage != "prefill"
    )


def test_a_decoder_costs_what_transformers_runs() -> None:
    """With an even number of rows and half of their own square, as many operations as counted, attention aside."""
    model = plain.build(plain.tiny_config(64))
    text = model.config.text_config
    spec = latency.Timed(latency.adopt(model, plain.word_tokenizer([]), name="tiny")).spec
    rows, past = 6, 10
    _, cache = plain.prefill(model, torch.randn(past, text.hidden_size))
    with Counting() as found:
        plain.prefill(model, torch.randn(rows, text.hidden_size), cache)
    linear = {p: count for p, count in found.products.items() if p.batch == 1 and p.m == rows}
    ours = decoder(spec, text.intermediate_size, rows, past, whole=True)
    assert {p: count for p, count in ours.items() if p.batch == 1} == linear
    attention = flops({p: count for p, count in ours.items() if p.batch > 1})
    width, sees = text.hidden_size, past + rows // 2
    assert attention == 2 * 2 * rows * sees * width * text.num_hidden_layers
    kv = 2 * rows * text.hidden_size * 16 * 2
    stopped = flops(decoder(spec, text.intermediate_size, rows, past, whole=False))
    assert stopped - kv == pytest.approx((flops(ours) - 3 * kv) * 2 / 3 + 2 * kv)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6, unique=True).map(sorted))
def test_floors_between_two_points_lie_on_a_line(points: list[int]) -> None:
    floor = Floor(torch.float32, torch.device("cpu"))
    floor._ms = {Product(1, 1, 1, n): 3.0 + 2.0 * n for n in (points[0], points[-1])}
    assert floor.between(lambda n: {Product(1, 1, 1, n): 2}, points) == pytest.approx([6.0 + 4.0 * n for n in points])


def test_the_prefill_floor_grows_with_the_past(bench: Bench, run: Run) -> None:
    costs = bench.costs(run)
    for name in (DENSE, OURS, TRANSFORMERS):
        assert len(costs[name]["prefill"]["flops"]) == len(costs[name]["prefill"]["floor_ms"]) == 6
        assert costs[name]["prefill"]["flops"] == sorted(costs[name]["prefill"]["flops"])
    assert costs[TRANSFORMERS]["prefill"]["flops"][-1] > costs[DENSE]["prefill"]["flops"][-1]
    assert costs[DENSE]["prefill"]["flops"][-1] > costs[OURS]["prefill"]["flops"][-1]


def test_the_first_frame_s_floor_has_nothing_but_the_prefix_before_it(bench: Bench, run: Run) -> None:
    spec, inner = bench._backbone.spec, bench._model.config.text_config.intermediate_size
    for name, kept in ((DENSE, 4), (OURS, 2)):
        by_frame = bench.costs(run)[name]["prefill"]["flops"]
        assert by_frame[0] == flops(decoder(spec, inner, kept, spec.prefix_rows, whole=False))
        assert by_frame[5] == flops(decoder(spec, inner, kept, spec.prefix_rows + 5 * kept, whole=False))


def test_a_memory_that_forgets_has_no_prefill_floor() -> None:
    setting = dataclasses.replace(TINY, pipeline="streamingllm:12+uniform:2")
    made, left = Bench(setting), Run()
    made.warm_up(frames(2))
    made.run(frames(6), left)
    assert "prefill" not in made.costs(left)[setting.pipeline]


def test_a_stopped_bench_keeps_what_it_has(bench: Bench, run: Run, tmp_path: Path) -> None:
    path, left = tmp_path / "deep" / "latency.json", Run()

    def stop() -> None:
        if left.reached == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(frames(6), left, progress=stop)
    made = record.Record(TINY, MACHINE, unfinished=left)
    made.write(path)
    again = record.read(path, TINY, MACHINE)
    result = again.result()
    assert result is not None
    assert result["frames"] == 2
    assert set(result["prefill_ratio"]) == {"2"}
    again.runs, again.unfinished = [run], None
    again.costs = bench.costs(run)
    again.saw_memory({"resident": 5})
    again.saw_memory({"resident": 3})
    again.write(path)
    whole = record.read(path, TINY, MACHINE)
    assert whole.result() == again.result()
    assert whole.result()["peak_memory_bytes"] == {"resident": 5}  # type: ignore[index]
    assert json.loads(path.read_text())["result"]["frames"] == 6
    assert [name.name for name in path.parent.iterdir()] == ["latency.json"]


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    record.Record(TINY, MACHINE).write(path)
    with pytest.raises(ValueError, match=r"lengths \[2, 6\], not \[2, 4\]; .*--restart"):
        record.read(path, dataclasses.replace(TINY, lengths=(2, 4)), MACHINE)
    with pytest.raises(ValueError, match="threads 1, not 2"):
        record.read(path, dataclasses.replace(TINY, threads=2), MACHINE)
    with pytest.raises(ValueError, match="cpu 'a cpu', not 'another'"):
        record.read(path, TINY, {**MACHINE, "cpu": "another"})
    old = json.loads(path.read_text())
    del old["setting"]["text"], old["setting"]["fps"]  # nobody knows what they were, today's need not be it
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"an older record, without fps, text; .*--restart"):
        record.read(tmp_path / "old.json", TINY, MACHINE)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"no record of this bench .*--restart"):
        record.read(path, TINY, MACHINE)
    path.write_text(json.dumps({"setting": {}, "machine": {}, "runs": []}))
    with pytest.raises(ValueError, match="no record of this bench"):
        record.read(path, TINY, MACHINE)


def damage(found: dict[str, Any], how: str) -> None:
    """Do one kind of harm to a record that is valid JSON."""
    run = found["runs"][0]
    if how == "no frames":
        run["frames"] = {}
    elif how == "fewer values":
        del run["frames"][OURS]["tower"][-1]
    elif how == "fewer of all":
        for stages in run["frames"].values():
            stages.update({stage: ms[:3] for stage, ms in stages.items()})
    elif how == "no contender":
        del run["frames"][OURS]
    elif how == "no kinds":
        run["kinds"] = {}
    elif how == "strings":
        run["frames"][DENSE]["prefill"] = ["1"] * 6
    elif how == "answers":
        run["answers"][DENSE]["6"] = [1.0]
    elif how == "zeros":
        run["frames"][TRANSFORMERS]["prefill"] = [0] * 6
    elif how == "costs":
        found["costs"] = {OURS: {"prefill": {"flops": "many", "floor_ms": 1.0}}}
    elif how == "peak":
        found["peak_bytes"] = {"resident": "much"}
    else:
        found["runs"] = [how]


HARMS = ("no frames", "fewer values", "fewer of all", "no contender", "no kinds", "strings", "answers", "zeros")


@pytest.mark.parametrize("how", [*HARMS, "costs", "peak", "a text"])
def test_a_damaged_run_is_named(how: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    record.Record(TINY, MACHINE, runs=[run]).write(path)
    assert record.read(path, TINY, MACHINE).runs == [run]
    found = json.loads(path.read_text())
    damage(found, how)
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"no record of this bench .*--restart"):
        record.read(path, TINY, MACHINE)


def test_an_unfinished_run_may_lack_anything_behind_its_last_length(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    for left in (Run(), dataclasses.replace(run, frames={DENSE: {"pixels": [1.0]}})):
        record.Record(TINY, MACHINE, unfinished=left).write(path)
        assert record.read(path, TINY, MACHINE).result() is None


def test_what_does_not_fit_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain.shape_config("llava-onevision-7b")
    needed = space.needed_bytes(config, torch.bfloat16, 16)
    assert 16e9 < needed < 20e9
    assert space.needed_bytes(config, torch.float32, 16) > 30e9
    assert space.needed_bytes(config, torch.bfloat16, 64) > needed
    assert (space.free_bytes(torch.device("cpu")) or 1) > 0
    monkeypatch.setattr(space, "free_bytes", lambda device: 4 << 30)
    setting = Setting(shape="llava-onevision-7b", lengths=(16,))
    with pytest.raises(ValueError, match=r"7b in bfloat16 with 16 frames needs about 1\d\.\d GiB .* 4\.0 GiB are free"):
        Bench(setting)
    monkeypatch.setattr(space, "free_bytes", lambda device: None)
    space.check_room("it", needed, torch.device("cpu"))


def test_settings_that_measure_nothing_are_refused() -> None:
    for lengths in ((), (1, 2), (4, 2), (2, 2)):
        with pytest.raises(ValueError, match="frames"):
            Setting(lengths=lengths)
    with pytest.raises(ValueError, match="pipeline"):
        Setting(pipeline="dense")
    with pytest.raises(ValueError, match="nope"):
        Bench(dataclasses.replace(TINY, pipeline="nope"))
    with pytest.raises(ValueError, match="gpt"):
        Bench(dataclasses.replace(TINY, shape="gpt"))
