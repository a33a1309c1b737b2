"""Recorded work gives what the work itself gives, and nothing of one call reaches the next.

The recorder here stands in for a device's: like a captured graph it has fixed memory for inputs and outputs. What is
special to CUDA is tested on a GPU (``test_gpu.py``).
"""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

import headrace
from headrace.backbones import FAMILIES, load, plain
from headrace.backbones.graphs import LARGE, MOST, Graphs, Rooms
from headrace.bench.products import Counting
from headrace.registry import build
from headrace.types import Cursor, Frame, View


@pytest.fixture(autouse=True)
def _no_gradients():
    """As streams run: with gradients nothing is recorded."""
    with torch.no_grad():
        yield


class Recorder:
    """Captures as a device does: the same inputs and outputs for every replay."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work, inputs):
        self.recorded += 1
        held = [x.clone() for x in inputs]
        outputs = [x.clone() for x in work(*held)]

        def replay(inputs):
            self.replayed += 1
            torch._foreach_copy_(held, list(inputs))
            for old, new in zip(outputs, work(*held), strict=True):
                old.copy_(new)
            return [x.clone() for x in outputs]

        return replay


def double(x, y):
    return [2 * x + y, x.sum(0)]


def test_the_second_call_records_and_the_third_replays():
    recorder = Recorder()
    graphs = Graphs(recorder)
    kept = []
    for number in range(5):
        x, y = torch.randn(3, 4), torch.randn(3, 4)
        before = x.clone(), y.clone()
        found = graphs.run("a", double, (x, y))
        kept.append((found, double(*before)))
        assert (x == before[0]).all()
        assert (y == before[1]).all()
        assert (recorder.recorded, recorder.replayed) == (min(number, 1), number)
    for found, expected in kept:  # a later call writes over none of these
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_key_shape_and_type_tell_recordings_apart():
    recorder = Recorder()
    graphs = Graphs(recorder)
    ways = [
        ("a", lambda x: [x + 1], torch.randn(3)),
        ("b", lambda x: [x + 2], torch.randn(3)),
        ("a", lambda x: [x + 1], torch.randn(4)),
        ("a", lambda x: [x + 1], torch.randn(3, dtype=torch.float64)),
    ]
    for _ in range(3):
        for key, work, x in ways:
            (found,) = graphs.run(key, work, (x,))
            assert found.dtype == x.dtype
            assert (found == work(x)[0]).all()
    assert (recorder.recorded, recorder.replayed) == (4, 8)


def test_the_least_used_recording_leaves():
    recorder = Recorder()
    graphs = Graphs(recorder)
    for key in range(MOST + 1):
        for _ in range(2):
            graphs.run(key, lambda x: [x], (torch.zeros(2),))
    assert len(graphs._held) == MOST
    assert recorder.recorded == MOST + 1
    graphs.run(MOST, lambda x: [x], (torch.zeros(2),))
    assert recorder.recorded == MOST + 1, "the newest is there"
    for _ in range(2):
        graphs.run(0, lambda x: [x], (torch.zeros(2),))
    assert recorder.recorded == MOST + 2, "the oldest was not"


def test_work_that_cannot_be_recorded_runs_as_it_stands_and_says_so_once(caplog):
    def refuse(work, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = Graphs(refuse)
    for _ in range(4):
        x = torch.randn(3, 4)
        assert (graphs.run("a", double, (x, x))[0] == 3 * x).all()
    assert len(caplog.records) == 1
    assert caplog.messages[0].endswith("operation not permitted when stream is capturing")


def test_without_a_recorder_a_processor_runs_everything_as_it_stands():
    graphs = Graphs()
    for _ in range(3):
        graphs.run("a", lambda x: [x], (torch.zeros(2),))
    assert not graphs._held


def test_parts_are_held_together_and_leave_together():
    recorder = Recorder()
    graphs, x = Graphs(recorder, most=2), torch.zeros(2)
    for key in "abab":
        for part in range(30):
            graphs.run(key, lambda x, part=part: [x + part], (x,), part=part)
    assert recorder.recorded == 60
    for key in "cc":
        graphs.run(key, lambda x: [x], (x,), part=0)
    assert list(graphs._held) == ["b", "c"], "the one not met for longest left"
    assert (graphs.run("b", lambda x: [x + 7], (x,), part=7)[0] == 7).all()
    assert recorder.recorded == 61


def test_rooms_are_shared_and_go_with_their_last_user():
    rooms, x = Rooms(), torch.randn(3, 4)
    first = rooms.like("input", [x, x])
    assert first[0] is not first[1], "one call's tensors are needed at the same time"
    assert rooms.like("input", [torch.zeros(3, 4)])[0] is first[0]
    others = [*rooms.like("result", [x]), *rooms.like("input", [x.double(), x.t(), x[:2]])]
    assert not any(room is other for room in first for other in others)
    assert [room.shape for room in others] == [(3, 4), (3, 4), (4, 3), (2, 4)]
    gone = [weakref.ref(room) for room in first]
    del first
    gc.collect()
    assert [room() for room in gone] == [None, None]


def test_large_work_is_not_recorded():
    recorder = Recorder()
    graphs, x = Graphs(recorder), torch.zeros(1).expand(LARGE + 1)
    for _ in range(3):
        graphs.run("a", lambda x: [x[:1]], (x,))
    assert not recorder.recorded


def test_gradients_and_inference_mode_see_the_work_itself():
    recorder = Recorder()
    graphs, x = Graphs(recorder), torch.ones(2, requires_grad=True)
    for mode in (torch.enable_grad, torch.inference_mode):
        for _ in range(3):
            with mode():
                graphs.run("a", lambda x: [2 * x], (x,))
    assert not recorder.recorded
    with torch.enable_grad():
        graphs.run("a", lambda x: [2 * x], (x,))[0].sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_what_a_pruner_leaves_is_not_recorded(tmp_path):
    """How many rows are left differs from step to step: each number would be recorded, layer by layer."""
    plain.save(*plain.tiny("llava_onevision", ["what", "is"]), tmp_path)
    backbone, recorder, dice = load(str(tmp_path), dtype=torch.float32), Recorder(), torch.Generator().manual_seed(1)
    backbone._rows = Graphs(recorder)

    class Some:
        def keep(self, layer, h, visual):
            num = int(torch.randint(1, len(h) + 1, (), generator=dice))
            return torch.randperm(len(h), generator=dice)[:num].sort().values

    memory = build("full")
    for index in range(20):
        frame = Frame(index, float(index), torch.zeros(40, 40, 3, dtype=torch.uint8))
        tokens = backbone.vision(backbone.pixels([frame]), [frame])
        segment, _ = backbone.place(Cursor(), backbone.wrap(tokens, Cursor()))
        context = memory.read(memory.init(backbone.spec), backbone.spec, query=False)
        backbone.extend(segment, context, pruner=Some())
    assert recorder.recorded <= 2, "the first layer's beginning and end, which see all rows"


def test_who_counts_operations_sees_them():
    recorder = Recorder()
    graphs, x = Graphs(recorder), torch.randn(4, 4)
    for _ in range(3):
        with Counting() as found:
            graphs.run("a", lambda x: [x @ x], (x,))
        assert sum(found.products.values()) == 1
    assert not recorder.recorded


def test_threads_do_not_get_each_others_results():
    graphs, wrong = Graphs(Recorder()), []

    def look(seed):
        dice = torch.Generator().manual_seed(seed)
        for _ in range(200):
            x = torch.randn(8, generator=dice)
            wrong.extend([seed] if (graphs.run("a", lambda x: [x * 3], (x,))[0] != x * 3).any() else [])

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("selection", ["per_layer", "shared"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_stc_cacher_from_recordings_equals_itself(family, selection, tmp_path):
    """Two streams in turn, each with its own reference, through one recording; bit for bit."""
    plain.save(*plain.tiny(family, ["what", "is"]), tmp_path)
    backbone = load(str(tmp_path), dtype=torch.float32)
    backbone = backbone.at(backbone.choose(View(), Frame(0, 0.0, torch.zeros(40, 40, 3, dtype=torch.uint8))))
    method = build("stc_cacher", refresh_interval=4, update_ratio=0.3, selection=selection)
    size = backbone.spec.frames_per_step
    dice = torch.Generator().manual_seed(3)
    shots = torch.randint(0, 256, (2, 8 * size, 40, 40, 3), dtype=torch.uint8, generator=dice)

    def watch(backbone):
        states, seen = [method.init(backbone.spec) for _ in range(2)], []
        for step in range(8):
            for number in range(2):
                frames = [Frame(i, float(i), shots[number, i]) for i in range(step * size, (step + 1) * size)]
                states[number], tokens = method.step(states[number], frames, backbone)
                seen.append((tokens.features, tokens.deep, method.updated(states[number], 1)))
        return seen

    expected, recorder = watch(backbone), Recorder()
    backbone._graphs = Graphs(recorder)
    recorded = watch(backbone)
    assert (recorder.recorded, recorder.replayed) == (2, 14), "4 steps refresh, 12 reuse; the first run as they stand"
    for a, b in zip(expected, recorded, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is None and y is None) or (x == y).all()


@pytest.mark.parametrize("pipeline", ["dense", "rekv:2+stc_pruner:0.5", "recent:3", "stc_adaptive"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_stream_from_recordings_equals_itself(family, pipeline, tmp_path):
    """Tower and decoder, frames, questions and answers of two streams in turn, bit for bit."""
    plain.save(*plain.tiny(family, ["what", "is"]), tmp_path)
    dice = torch.Generator().manual_seed(3)
    shots = torch.randint(0, 256, (2, 12, 40, 40, 3), dtype=torch.uint8, generator=dice)

    def watch(recorder=None):
        engine, said = headrace.load(str(tmp_path), dtype="float32"), []
        if recorder is not None:
            engine.backbone._graphs, engine.backbone._rows = Graphs(recorder), Graphs(recorder, most=8)
        settings = ("memory.window=60",) if "rekv" in pipeline else ()
        streams = [engine.open(pipeline, settings=settings) for _ in range(2)]
        for index in range(12):
            for number, stream in enumerate(streams):
                stream.push(Frame(index, float(index), shots[number, index]))
                if index % 4 == 3:
                    said.append(stream.ask("what is", max_tokens=4))
        return said

    recorder = Recorder()
    for plainly, recorded in zip(watch(), watch(recorder), strict=True):
        assert plainly.tokens == recorded.tokens
        assert [e.score for e in plainly.evidence] == [e.score for e in recorded.evidence]
    assert recorder.replayed > 5 * recorder.recorded > 0
