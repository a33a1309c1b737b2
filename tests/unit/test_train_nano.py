"""The whole training path in seconds, and what becomes of a run that is stopped."""

import hashlib
import json

import pytest
import torch

from headrace.backbones import plain
from headrace.train import loop, nano, train_nano
from headrace.train.clips import HELD_OUT, PLACES, TRAINING, film, held_out_world, label, pixels, training_world
from headrace.train.evaluate import Measured, Spoken
from headrace.train.export import Trained, card
from headrace.train.loop import Phase, Run
from headrace.train.measure import Findings
from headrace.train.see import TokenHead
from headrace.train.study import numbered
from headrace.video.world import World, choices
from headrace.video.world.marking import Tally
from headrace.video.world.script import COLOURS, SHAPES


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    seen = []
    result = train_nano(folder, smoke=True, progress=lambda phase, share, figures: seen.append((phase, share)))
    return folder, result, seen


def test_smoke_walks_the_whole_path(smoke):
    folder, result, seen = smoke
    assert [phase for phase, share in seen if share == 1] == ["see", "bind", "follow", "watch"]
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows if "loss" in row} == {"see", "bind", "follow", "watch"}
    assert 0 <= result["macro"] <= 1
    assert (folder / "state.pt").exists()


def test_the_checkpoint_is_plain_and_small(smoke):
    folder = smoke[0] / "nano"
    weights = folder / "model.safetensors"
    assert weights.stat().st_size <= 16 * 2**20
    config = json.loads((folder / "config.json").read_text())
    assert config["headrace"]["positions"] == "original"
    assert config["headrace"]["seed"] == 1
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (folder / "README.md").read_text()
    model, tokenizer = plain.load(folder)
    content = [{"type": "video"}, {"type": "text", "text": "where is the star?"}]
    ids = plain.chat_ids(tokenizer, [{"role": "user", "content": content}], [65])
    out = plain.generate(model, ids, pixels(film(World(1), [0]))[:, None], max_tokens=3)
    assert len(out) <= 3


def test_a_finished_run_is_not_trained_again(smoke):
    folder, result, _ = smoke
    before = (folder / "nano" / "model.safetensors").read_bytes()
    again = train_nano(folder, smoke=True, progress=lambda *_: pytest.fail("trained again"))
    assert again == result
    assert (folder / "nano" / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="seed 1, not 2"):
        train_nano(folder, smoke=True, seed=2, progress=False)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seed": 2}, "seed 1, not 2"),
        ({"drop": "uniform"}, "--drop mixed, not uniform"),
        ({"smoke": False, "steps": 8}, "holds a smoke run"),
        ({"more": True, "resume": False}, "one of the two"),
        ({"start": "nowhere", "resume": False}, "nowhere: holds no checkpoint"),
    ],
)
def test_a_run_goes_on_as_what_it_is(smoke, options, word):
    state = (smoke[0] / "state.pt").read_bytes()
    with pytest.raises(ValueError, match=word):
        train_nano(smoke[0], progress=False, **{"smoke": True, **options})
    assert (smoke[0] / "state.pt").read_bytes() == state


def test_a_run_that_is_stopped_while_measuring_says_how_to_go_on(smoke, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(nano, "measure", stop)
    with pytest.raises(KeyboardInterrupt, match=r"the same command measures"):
        train_nano(smoke[0], smoke=True, progress=False)
    monkeypatch.setattr(nano, "_train", lambda *_: None)
    with pytest.raises(KeyboardInterrupt, match=r"without --more measures"):
        train_nano(smoke[0], smoke=True, more=True, progress=False)


def test_every_round_has_worlds_of_its_own():
    names = ["bind", "follow", *("watch" + (f" {n}" if n > 1 else "") for n in range(1, 300))]
    assert len({numbered(name) % 2**64 for name in names}) == len(names)


def findings():
    results = (("digit", "7", "7"), ("changed", "yes", ""))
    part = Measured("8 frames", results, (True,))
    return Findings((part, part), (part,), Spoken(0.5, {"say when": Tally(8, 2, 1)}))


def test_a_card_says_what_was_done():
    plainly = card(Trained(1, {"watch": 4}, {"watch": 60.0}, 2), findings(), "abc")
    assert "seed 1, from nothing, 2 thread(s): watch 4 steps (1 min)" in plainly
    assert "mixture" in plainly
    assert "more than 64 frames" in plainly
    assert "(below .75 at 16 frames): changed (0.00)." in plainly
    assert "| **macro** | **0.500** |" in plainly
    assert "2 seeds of held-out worlds" in plainly
    assert "9 events of all instructions, threshold 0.5: F1 **0.842** within one frame" in " ".join(plainly.split())
    assert "(precision 0.800, recall 0.889); say when 0.84." in " ".join(plainly.split())
    assert max(map(len, plainly.splitlines())) <= 120
    assert "rest on 50% of the questions, so their error is 1.4 times as\nlarge." in plainly
    control = card(Trained(1, {"follow": 4}, {"follow": 9.0}, 1, "nano, sha256 fed", "none"), findings(), "abc")
    assert "started from a checkpoint (nano, sha256 fed)" in control
    assert "dropped none (a control). What it started from may have been trained otherwise." in control
    assert "more than 32 frames" in control


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": -1.0}, "minutes"),
        ({"steps": 1}, "steps"),
        ({"minutes": 1, "steps": 9}, "not both"),
        ({"threads": 0}, "threads"),
        ({"drop": "stc"}, "mixed, uniform, none"),
        ({"device": "toaster"}, "toaster"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, options, word):
    with pytest.raises(ValueError, match=word):
        train_nano(tmp_path, progress=False, **options)


def small(folder, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 4)
    return Run(folder, 5, torch.device("cpu")), model


def fit(run, model, steps, stop_at=None):
    def step_loss(step, share):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.flip(1)).pow(2).mean(), {}

    loop.fit(run, Phase("walk", 1e-2, steps=steps), {"model": model}, model.parameters(), step_loss)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "WARM", 1)  # a resume warms up anew, which is not what is compared here
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run, whole = small(tmp_path / "a")
    fit(run, whole, 30)
    run, model = small(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        fit(run, model, 30, stop_at=11)
    run, model = small(tmp_path / "b", seed=9)
    run.load({"model": model})
    assert run.at is not None
    assert run.at[:2] == ("walk", 11)
    fit(run, model, 30)
    assert torch.equal(model.weight, whole.weight)
    assert run.finished == {"walk": 30}
    assert run.at is None


def test_a_loss_that_is_no_number_ends_the_run_and_spoils_nothing(tmp_path):
    run, model = small(tmp_path)
    before = model.weight.detach().clone()

    def step_loss(step, share):
        return (model(torch.ones(1, 4)) * float("nan")).sum(), {}

    with pytest.raises(ValueError, match="walk: the loss is no number at step 0"):
        loop.fit(run, Phase("walk", 1e-2, steps=3), {"model": model}, model.parameters(), step_loss)
    assert torch.equal(model.weight, before)
    assert not run.state.exists()


def test_a_phase_by_the_clock_ends():
    phase = Phase("walk", 1.0, seconds=10)
    assert [phase.done(99, spent) for spent in (0, 5, 20)] == [0, 0.5, 1]
    assert Phase("walk", 1.0, steps=4).done(1, 1e9) == 0.25


def test_training_never_sees_a_held_out_world():
    seeds = {training_world(seed, *keys).seed for seed in range(20) for keys in ((1, 2), (3,), (2, 1))}
    assert len(seeds) == 60
    assert min(seeds) >= TRAINING > held_out_world(2**20 - 1).seed >= HELD_OUT > 10**9
    assert training_world(1, 2).seed == training_world(1, 2).seed


def test_labels_say_what_the_script_says():
    world = World(21)
    scene = world.scene(9)
    labels = label(scene, [9])
    grid = labels.classes.reshape(8, 8, 7)
    assert set(PLACES) == set(choices("where"))
    assert int(labels.classes[:, 4].sum()) == len(scene.visible(9))
    for sprite in scene.visible(9):
        x, y = sprite.centre(9)
        cell = grid[y // 16, x // 16]
        assert cell[:2].tolist() == [SHAPES.index(sprite.shape), COLOURS.index(sprite.colour_at(9))]
        assert cell[4:].tolist() == [1, y // 16, x // 16]
        near = labels.coordinates.reshape(8, 8, 4)[y // 16, x // 16]
        assert near[0] * 16 == x - (x // 16 * 16 + 8)
        assert torch.allclose(near[2:], torch.tensor([x, y]) / 64 - 1)
    assert set(labels.classes[:, 2].tolist()) == {10, scene.digit(9)}
    assert (labels.classes[~labels.shown][:, :3] == torch.tensor([6, 8, 10])).all()


def test_a_head_names_its_directions():
    head = TokenHead(16)
    direction = head.direction("colour", 2)
    rows = head.classes.weight[7:16]
    assert torch.allclose(direction.norm(), torch.tensor(1.0))
    assert torch.allclose(direction, torch.nn.functional.normalize(rows[2] - rows.mean(dim=0), dim=0))
