"""Recorded work gives what the work itself gives, and nothing of one call reaches the next.

The recorder here stands in for a device's: like a captured graph it has fixed memory for inputs and outputs. What is
special to CUDA is tested on a GPU (``test_gpu.py``).
"""

from __future__ import annotations

import threading

import pytest
import torch

from headrace.backbones import FAMILIES, load, plain
from headrace.backbones.graphs import MOST, Graphs
from headrace.bench.products import Counting
from headrace.registry import build
from headrace.types import Frame, View


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
    assert (recorder.recorded, recorder.replayed) == (1, 11), "12 steps reuse; the first runs as it stands"
    for a, b in zip(expected, recorded, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is None and y is None) or (x == y).all()
