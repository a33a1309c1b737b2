"""Facts the newline rows are taught: told of every frame, equal to what the world's script says."""

import math

import pytest
import torch

from headrace.train.answer import loss
from headrace.train.evaluate import Spoken
from headrace.train.facts import CARRIED, LAST, NEAR, NONE_GONE, OLDEST, FactHead, tell
from headrace.train.loop import Run
from headrace.train.nano import build_nano, train_nano
from headrace.train.notes import NoteHead
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Take
from headrace.train.recipe import AGAIN, NANO
from headrace.video.world import World
from headrace.video.world.marking import Tally
from headrace.video.world.sprite import COLOURS, SHAPES

NAMES = (*NEAR, *CARRIED, *LAST)


def stream(seed, ticks):
    """The first ticks of a world as a clip, without features; 256 wide."""
    world, frames = World(seed), []
    while len(frames) < ticks:
        scene = world.scene(len(frames))
        part = tuple(range(scene.start, scene.stop))
        empty = torch.zeros(len(part), 64)
        wide = torch.zeros(len(part), 64, 256)
        take = Take(scene, part, 128, wide, empty, empty.bool(), empty.long())
        frames += [(take, index) for index in range(len(part))]
    return frames[:ticks]


def test_facts_are_those_of_the_script():
    frames = stream(7, 90)
    told = tell(frames)
    assert told.shape == (90, len(NAMES))
    for number, (take, index) in enumerate(frames):
        fact = dict(zip(NAMES, told[number].tolist(), strict=True))
        scene, now, ticks = take.scene, take.ticks[index], take.ticks[: index + 1]
        here = [s for s in scene.sprites if s.visible(now)]
        seen = [s for s in scene.sprites if any(s.visible(tick) for tick in ticks)]
        assert fact["digit"] == scene.digit(now)
        assert fact["digit before"] == (scene.digit(ticks[-2]) if index else 10)
        assert fact["fresh"] == (index == 0)
        assert fact["age"] == min(index, OLDEST)
        old = scene.digit(ticks[0])
        assert fact["first digit"] == (old if old != fact["digit"] else -100), "known without remembering"
        assert fact["so far"] == len(seen)
        assert fact["now"] == len(here)
        assert (fact["gone"] == NONE_GONE) == (len(seen) == len(here))
        entry = {s: next(tick for tick in ticks if s.visible(tick)) for s in seen}
        for name, best in (("oldest", min), ("newest", max)):
            found = [s for s in seen if entry[s] == best(entry.values())]
            assert fact[name] == (SHAPES.index(found[0].shape) if len(found) == 1 else -100)
        moments = sorted(set(entry.values()))
        before = {s.shape for s in seen if len(moments) > 1 and entry[s] == moments[-2]}
        assert {shape for shape in SHAPES if fact[f"before the newest {shape}"]} == before
        newest = [s for s in seen if entry[s] == moments[-1]] if seen else []
        worn = [newest[0].colour_at(t) for t in ticks if scene.clear(newest[0], t)] if len(newest) == 1 else []
        assert fact["newest colour"] == (COLOURS.index(worn[0]) if worn else -100)
        if 0 <= fact["gone"] < NONE_GONE:
            gone = max((s for s in seen if s not in here), key=lambda s: max(t for t in ticks if s.visible(t)))
            assert SHAPES[fact["gone"]] == gone.shape
    assert len(set(told[:, NAMES.index("age")].tolist())) > 8
    assert {"first digit", "gone"} <= {name for i, name in enumerate(NAMES) if len(set(told[:, i].tolist())) > 3}


def test_a_head_that_knows_nothing_loses_the_logarithms_and_one_that_knows_nearly_nothing():
    truth, head = tell(stream(7, 30)), FactHead(64)
    with torch.no_grad():
        for part in (head.near, head.carried, head.last):
            part.weight.zero_()
            part.bias.zero_()
    rows = torch.eye(64)[:30]
    total, _ = head.loss([rows] * 3, truth)
    sizes = (*NEAR.values(), *CARRIED.values(), *LAST.values())
    assert float(total.detach()) == pytest.approx(sum(map(math.log, sizes)) / len(sizes), abs=1e-5)
    with torch.no_grad():
        heads = (head.near, NEAR, 0), (head.carried, CARRIED, len(NEAR)), (head.last, LAST, len(NEAR) + len(CARRIED))
        for part, names, first in heads:
            start = 0
            for column, size in enumerate(names.values(), start=first):
                for number in (truth[:, column] >= 0).nonzero().flatten().tolist():
                    part.weight[start + truth[number, column], number] = 5.0
                start += size
    total, right = head.loss([rows] * 3, truth)
    assert set(right) == set(NAMES)
    assert set(right.values()) == {1.0}
    assert total < 0.05


def test_facts_reach_the_loss_at_all_depths():
    parts, tokenizer = build_nano(3)
    words, frames = Words(tokenizer), stream(5, 12)
    assert any(tell(frames)[:, NAMES.index("first digit")] >= 0), "the digit changes"
    kept = torch.zeros(12, 64, dtype=torch.bool)
    asks = [Ask(11, "digit", "what digit is on the display?", "7")]
    batch = pack(
        [Clip(frames, asks, kept, facts=tell(frames)), Clip(frames[:2], [], kept[:2], facts=tell(frames[:2]))], words
    )
    assert batch.facts.shape == (14, len(NAMES))
    with torch.enable_grad():
        decoder = parts["model"].model.language_model
        for weight in decoder.parameters():
            weight.requires_grad_(True)
        total, figures = loss(parts["model"], {"notes": NoteHead(256), "facts": parts["facts"]}, batch)
        (total - figures["answers"]).backward()
    assert {f"fact {name}" for name in NAMES} <= set(figures)
    reached = [float(layer.mlp.up_proj.weight.grad.abs().sum()) > 0 for layer in decoder.layers]
    assert reached[:4] == [True] * 4


def test_a_run_from_a_checkpoint_may_begin_with_the_last_phase_and_then_is_at_its_end():
    (only,) = NANO.phases(10, None, first="watch")
    assert (only.name, only.ripe, only.seconds) == ("watch", True, 600)
    assert only.rate == NANO.rates["watch"] * AGAIN
    assert [phase.ripe for phase in NANO.phases(10, None, first="follow")] == [False, False]
    assert NANO.phase("watch", 1.0, None, 9, number=2).ripe


@pytest.mark.parametrize(
    ("options", "word"),
    [({"first": "bind", "start": "nano"}, "follow, watch"), ({"first": "watch"}, "needs a checkpoint")],
)
def test_a_phase_that_cannot_be_first_is_refused(tmp_path, options, word):
    with pytest.raises(ValueError, match=word):
        train_nano(tmp_path / "run", progress=False, smoke=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_run_remembers_where_it_began(tmp_path):
    run = Run(tmp_path, 1, torch.device("cpu"), start="nano", first="watch", drop="mixed", smoke=True)
    run.save({}, None)
    again = Run(tmp_path, 1, torch.device("cpu"), smoke=True)
    again.load({})
    assert (again.start, again.first) == ("nano", "watch")
    with pytest.raises(ValueError, match="began with watch, not follow"):
        Run(tmp_path, 1, torch.device("cpu"), first="follow", smoke=True).load({})


def test_spoken_adds_up():
    one, two = Spoken(0.5, {"a": Tally(1, 2, 3)}), Spoken(0.5, {"a": Tally(4, 0, 0), "b": Tally(0, 1, 0)})
    both = one + two
    assert both.tallies == {"a": Tally(5, 2, 3), "b": Tally(0, 1, 0)}
    assert both.whole == Tally(5, 3, 3)
    assert both.events == 8
    assert both.whole.f1 == pytest.approx(10 / 16)
