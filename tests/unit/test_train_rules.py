"""The rules of training, one by one: what a measurement asks and counts, what a clip keeps, how a phase begins."""

import json

import pytest
import torch

from headrace.methods.speakers.eos_threshold import EosThreshold
from headrace.train import drop, evaluate, loop, pool
from headrace.train.loop import Phase, Run
from headrace.train.nano import build_nano
from headrace.train.pack import Words
from headrace.train.pool import Pool, Take
from headrace.types import Observation, Reply
from headrace.video.world import World
from headrace.video.world.generator import Draw


@pytest.fixture(scope="module")
def nano():
    parts, tokenizer = build_nano(3)
    return parts["model"], Words(tokenizer)


@pytest.mark.parametrize(
    ("silence", "threshold"), [(0.3, 0.2), (0.3, 0.5), (0.6, 0.5), (0.6, 0.7), (0.15, 0.1), (0.98, 0.9)]
)
def test_a_measurement_speaks_where_a_stream_does(nano, monkeypatch, silence, threshold):
    """Below the threshold, and also where a word is likelier than silence."""
    model, words = nano
    odds = torch.full((words.stop + 5,), 1e-6)
    odds[words.stop + 1], odds[words.stop] = 0.85 - silence if silence < 0.85 else 0.01, silence
    replies = []

    def run_rows(model, batch):
        replies.extend([odds.log()] * int((batch.targets >= 0).sum()))
        return torch.stack(replies), batch.targets[batch.targets >= 0]

    monkeypatch.setattr(evaluate, "run_rows", run_rows)
    spoken = evaluate.listen(model, words, clips=1, frames=2, threshold=threshold).whole
    reply = Reply("x", odds.log(), (words.stop,))
    speaks = EosThreshold(threshold=threshold).step(None, Observation(0, 0.0, None, None, reply=reply))[1].speak
    assert len(replies) > 10
    assert (spoken.hits + spoken.alarms > 0) == speaks


class Always(dict):
    """The same share for every answer."""

    def get(self, key, default=None):
        return self["share"]


@pytest.mark.parametrize("share", [0, 1000])
def test_common_answers_are_left_out_of_a_measurement(nano, monkeypatch, share):
    """As often as ``fair.odds`` says, in thousandths."""
    monkeypatch.setattr(evaluate, "odds", lambda *_: Always(share=share))
    assert (evaluate.held_out_clip(nano[0], 0, 2).asks == []) == (share == 0)


def test_a_phase_warms_up_at_its_start_and_after_every_resume(tmp_path, monkeypatch):
    """So that a new optimiser does not throw the weights about."""
    monkeypatch.setattr(loop, "WARM", 4)
    monkeypatch.setattr(loop, "LOG_STEPS", 1)
    model, run = torch.nn.Linear(2, 2), Run(tmp_path, 0, torch.device("cpu"))
    phase, stop_at = Phase("walk", 1.0, steps=20), [2]

    def step_loss(step, share):
        if step in stop_at:
            raise KeyboardInterrupt
        return model(torch.ones(1, 2)).sum(), {}

    with pytest.raises(KeyboardInterrupt):
        loop.fit(run, phase, {"model": model}, model.parameters(), step_loss)
    run.load({"model": model})
    stop_at.clear()
    loop.fit(run, phase, {"model": model}, model.parameters(), step_loss)
    rates = [json.loads(line)["rate"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates[:8] == [0.25, 0.5, 0.25, 0.5, 0.75, 1, 1, 1]


def test_a_clip_that_begins_within_a_scene_keeps_its_first_frame(monkeypatch):
    """Nothing was before it, so everything in it is new, whatever it changed since a frame that is not shown."""
    monkeypatch.setitem(drop.MIXES, "mixed", ("difference",))
    change = torch.full((3, 64), 100.0)
    change[1] = 0.0
    scene, shown = World(2).scene(0), torch.zeros(3, 64, dtype=torch.bool)
    whole = Take(scene, (0, 1, 2), 128, torch.zeros(3, 64, 1), change, shown, shown.long())
    kept = drop.drop([(whole, 1), (whole, 2)], 0.5, Draw(1))
    assert kept.tolist() == [[True] * 64, [False] * 64]
    assert change[1].max() == 0


def test_a_full_pool_forgets_the_oldest(monkeypatch):
    made = []
    monkeypatch.setattr(pool, "take", lambda *_: made.append(len(made)) or made[-1])
    held = Pool(None, (1, 2), crowded=50, capacity=3)
    held.add(5)
    assert sorted(held.takes) == [2, 3, 4]
    held.add(3)
    assert sorted(held.takes) == [5, 6, 7]
