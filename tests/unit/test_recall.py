"""The recall bench: rare things are rare, truth is what is shown, and a memory is only asked what it has seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace
from headrace.bench import machine as bench_machine
from headrace.bench import recall
from headrace.bench.accuracy import FIRST_SEED
from headrace.bench.recall import NOW, Row, Setting, guessing, plan, run_seed
from headrace.bench.recalled import Rows, caption, recall_table, summarise
from headrace.video.world import LEVELS, RareWorld, World, choices, render
from headrace.video.world.look import RGB
from headrace.video.world.sprite import COLOURS
from headrace.video.world.view import place
from unit.tiny import objects, run, save_tiny

PLACE = bench_machine.place(bench_machine.machine(), "cpu")
SHORT = Setting(ages=(0.1,))
SETTING = Setting(ages=(0.1, 0.2), memory_mb=0.13)  # of the tiny model: 40 s


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def few_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guesser is marked on 100 streams, not on 1,000, to save time."""
    monkeypatch.setattr(recall, "MARKED", 100)
    guessing.cache_clear()
    yield
    guessing.cache_clear()


@settings(max_examples=10)
@given(st.integers(0, 1 << 40), st.sampled_from(sorted(LEVELS)))
def test_a_rare_thing_is_in_its_scene_and_in_no_other(seed, level):
    world = RareWorld(seed, LEVELS[level])
    moments = world.moments()
    assert len({moment.shape for moment in moments}) == len(moments) == 3
    for tick in range(0, 600, 3):
        scene = world.scene(tick)
        shown = {sprite.shape for sprite in scene.sprites}
        here = [moment for moment in moments if moment.start <= tick < moment.stop]
        assert shown & {moment.shape for moment in moments} == {moment.shape for moment in here}
        plain = World(seed, LEVELS[level]).scene(tick)
        assert (scene.start, scene.stop, scene.digits) == (plain.start, plain.stop, plain.digits)
        assert {s for s in scene.sprites if s.shape not in {m.shape for m in here}} <= set(plain.sprites)


def test_the_pictures_show_what_the_answers_say():
    """The middle pixel of a rare thing has the colour of the answer, and lies where the answer says."""
    for seed in range(20):
        world = RareWorld(seed)
        for moment in world.moments():
            sprite = next(s for s in world.scene(moment.start).sprites if s.shape == moment.shape)
            column, row = sprite.centre(moment.start)
            for tick in (moment.start, moment.stop - 1):
                assert tuple(render(world, tick)[row, column]) == RGB[moment.colour]
            thirds = [("top", "", "bottom")[3 * row // 128], ("left", "", "right")[3 * column // 128]]
            assert moment.place == (" ".join(word for word in thirds if word) or "centre")


@pytest.mark.parametrize("fps", [2.0, 1.0, 0.5, 0.25])
def test_every_question_comes_with_a_frame(fps):
    setting = Setting(ages=(1.0, 5.0), askings=4, fps=fps)
    assert all(tick % setting.step == 0 for seed in range(3) for tick in plan(seed, setting))


def test_questions_come_at_their_age_and_have_answers_of_their_kind():
    setting = Setting(ages=(1.0, 5.0))
    found, moments = plan(3, setting), recall._world(3, setting).moments()
    asked = [(age, number, x, tick) for tick, entries in found.items() for age, number, x in entries]
    for age in (NOW, 1.0, 5.0):
        own = [(number, x.kind) for when, number, x, _ in asked if when == age]
        assert sorted(own) == [(n, kind) for n in range(3) for kind in ("colour", "scene_before", "where")]
    for age, number, question, tick in asked:
        assert question.answer in choices(question.kind)
        assert question.time_s == tick / 2
        gone = tick - (moments[number].stop - 1)
        assert gone == round(120 * age) or (age == NOW and question.kind == "scene_before" and 0 < gone <= 4)
        assert moments[number].shape in question.text
    assert setting.num_frames(3) == moments[2].stop + 600


def test_fewer_frames_and_more_askings_ask_of_the_same_moments():
    """Every question falls on a frame; the moment is shown at its last frame; ages are told apart as before."""
    once, setting = plan(3, Setting(ages=(1.0, 5.0))), Setting(ages=(1.0, 5.0), askings=3, fps=1.0)
    found, moments = plan(3, setting), recall._world(3, setting).moments()
    assert all(tick % 2 == 0 for tick in found)
    for age, times in ((NOW, 1), (1.0, 3), (5.0, 3)):
        texts = [
            sorted(x.text for own in asked.values() for when, _, x in own if when == age) for asked in (once, found)
        ]
        assert texts[1] == sorted(texts[0] * times)
    for tick, own in found.items():
        for age, number, question in own:
            if age == NOW and question.kind != "scene_before":
                assert moments[number].start <= tick < moments[number].stop
            elif age != NOW:
                assert (tick - (moments[number].stop - 1) // 2 * 2) / 2 - 60 * age in (0, 5, 10)
    assert setting.num_frames(3) == max(found) // 2 + 1
    for wrong in ({"askings": 0}, {"fps": 3.0}, {"fps": 0.0}, {"fps": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Setting(**wrong)


def test_a_stream_of_half_the_frames_is_every_other_picture(model):
    seen = list(headrace.video.world.frames(World(3), 0, 9, 2))
    whole = list(headrace.video.world.frames(World(3), 0, 9))
    assert [(f.index, f.time_s) for f in seen] == [(i, float(i)) for i in range(5)]
    assert all((a.image == b.image).all() for a, b in zip(seen, whole[::2], strict=True))
    row = run_seed(headrace.load(model), ["moment"], 0, Setting(ages=(0.1,), fps=1.0))[0]
    assert len(row.outcomes) == 18


def test_answers_are_not_worth_guessing():
    """The guess of each kind, counted on some streams, marked on others by hand; and not on those that are watched."""
    guess, right = {}, {}
    for number in range(300):
        for moment in RareWorld(FIRST_SEED - 1 - number).moments():
            for kind, answer in (("colour", moment.colour), ("where", moment.place)):
                if number < 200:
                    guess.setdefault(kind, []).append(answer)
                else:
                    right.setdefault(kind, []).append(answer == max(guess[kind], key=guess[kind].count))
    found = guessing("standard")
    assert {kind: sum(x) / len(x) for kind, x in right.items()} == {kind: found.by_kind[kind] for kind in right}
    assert 0.05 < found.macro < 0.2
    assert 0.0 < found.ci95 < 0.04
    assert found.num == 100 * 9
    seen = {moment.colour for seed in range(40) for moment in recall._world(seed, SHORT).moments()}
    assert seen == set(COLOURS)


@pytest.mark.parametrize("ages", [(), (0.0,), (5.0, 1.0), (1.0, 1.0), (float("nan"),)])
def test_wrong_ages_are_named(ages):
    with pytest.raises(ValueError, match="ages"):
        Setting(ages=ages)


def test_pipelines_side_by_side_answer_as_alone_and_a_full_memory_is_out(model, tmp_path):
    """And rows come back from disk; a row that is there is not run again."""
    engine = headrace.load(model)
    names = ["recent:2@memory.turn_rows=4", "full", "moment"]
    rows = run_seed(engine, names, 0, SETTING)
    alone = [run_seed(engine, [name], 0, SETTING)[0] for name in names[:1]]
    assert [row.outcomes for row in alone] == [rows[0].outcomes]
    assert [row.full_s is None for row in rows] == [True, False, True]
    assert [age for age, _, _ in rows[1].outcomes] == [NOW] * 3 + [0.1] * 3
    assert len(rows[0].outcomes) == 27
    for kind in ("colour", "scene_before", "where"):  # what the moment's own scene says does not change with age
        told = [[r for age, k, r in rows[2].outcomes if (age, k) == (when, kind)] for when in SETTING.ages]
        assert told[0] == told[1]
    kept = Rows(tmp_path / "rows.jsonl", "m", SETTING, PLACE)
    for row in rows:
        kept.add(row)
    again = Rows(tmp_path / "rows.jsonl", "m", SETTING, PLACE)
    assert again.rows == rows
    assert again.has("full", 0)
    assert not again.has("full", 1)
    assert not Rows(tmp_path / "rows.jsonl", "other", SETTING, PLACE).rows
    assert not Rows(tmp_path / "rows.jsonl", "m", SHORT, PLACE).rows
    assert not Rows(tmp_path / "rows.jsonl", "m", SETTING, {**PLACE, "accelerator": "other"}).rows
    found = json.loads(json.dumps(summarise(rows, names, 1, SETTING)))
    assert found[1]["by_age"]["0.2"] is None
    assert found[0]["by_age"]["0.2"]["questions"] == 9
    assert "| full |" in recall_table(found, SETTING)
    assert (found[2]["ms_per_frame"], found[2]["memory_bytes"]) == (None, None)
    assert found[2]["ms_per_question"] > 0
    assert re.search(r"\| `moment` \| .* \|  \| \d+ \|  \|$", recall_table(found, SETTING), re.MULTILINE)


def test_a_memory_that_was_full_on_one_stream_is_full():
    """Survivors alone would be another set of questions; so would a stream on which it was asked some of them."""
    planned = [(age, x.kind, True) for found in plan(0, SETTING).values() for age, _, x in found]
    whole, part = Row("a", "a", 0, list(planned)), Row("a", "a", 1, planned[:-1], full_s=9.0)
    for rows, cells in (([whole], 9), ([whole, part], None), ([part], None)):
        (found,) = summarise(rows, ["a"], 2, SETTING)
        assert (found["by_age"]["0.2"] and found["by_age"]["0.2"]["questions"]) == cells
        assert found["by_age"]["0.1"] is not None
    assert found["full_s"] == 9.0


def test_the_guesser_has_a_share_at_every_age_and_no_costs():
    setting = Setting(ages=(1.0, 60.0), askings=4)
    (found,) = summarise([], ["majority"], 3, setting)
    assert {x["accuracy"] for x in found["by_age"].values()} == {guessing("standard").macro}
    assert list(found["by_age"]) == ["0", "1", "60"]
    assert recall_table([found], setting).endswith("|  |  |  |")
    text = caption([found], setting, "nano, standard level", 3)
    assert "3 streams of 2 frames per second, 27 questions now, 108 per age (9 moments x 3 kinds x 4 askings" in text
    assert text.endswith("`majority` on 1000 other streams")
    assert "9 moments x 3 kinds), %" in caption([], SHORT, "", 3)


def test_the_command_goes_on_and_writes_its_table(model, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:recall -->\n<!-- /bench:recall -->\n")
    common = ("bench", "recall", "--ages", "0.1", "--model", model, "--save", str(tmp_path / "r.jsonl"))
    names = ("--pipelines", "recent:1,majority", "--readme", str(page))
    code, stdout, stderr = run(*common, "--streams", "1", *names, "--json")
    assert code == 0
    assert [x["pipeline"] for x in objects(stdout)] == ["recent:1", "majority"]
    assert "| `recent:1` |" in page.read_text()
    assert "left" in stderr
    assert run(*common, "--streams", "1", *names, "--json")[1:] == (stdout, "")
    for wrong, word in ((("--ages", "x"), "--ages"), (("--ages", "5,1"), "ages"), (("--level", "no"), "level")):
        code, _, stderr = run("bench", "recall", "--model", model, *wrong)
        assert (code, word in stderr, stderr.count("\n")) == (2, True, 1)


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_a_rare_thing_is_said_to_lie_where_it_is_seen(level):
    """The whole time, whatever the camera does."""
    for seed in range(6):
        world = RareWorld(seed, LEVELS[level])
        for moment in world.moments():
            scene = world.scene(moment.start)
            thing = next(sprite for sprite in scene.sprites if sprite.shape == moment.shape)
            for tick in range(moment.start, moment.stop):
                assert place(thing, tick, LEVELS[level].size, scene.camera(tick)) == moment.place
