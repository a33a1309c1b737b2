"""Questions: answered by what was seen and nothing else, in a closed set, and not to be guessed."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.video.world import (
    KINDS,
    Question,
    View,
    World,
    choices,
    majority,
    matches,
    normalise,
    questions,
    score,
    vocabulary,
    watches,
)
from headrace.video.world.script import SHAPES

SEEDS, TICKS = st.integers(0, 2**41), st.integers(0, 20_000)


def diary(world: World, tick: int) -> list[dict[str, tuple[str, tuple[int, int]]]]:
    """What was on every picture of the scene up to a tick: shape -> (colour, centre)."""
    scene = world.scene(tick)
    return [
        {s.shape: (s.colour_at(t), s.centre(t)) for s in scene.sprites if s.appears <= t < s.leaves}
        for t in range(scene.start, tick + 1)
    ]


def truth(question: Question, pages: list[dict], digit: int) -> str:
    """The answer by looking the diary through, page by page."""
    now = pages[-1]
    named = [shape for shape in SHAPES if re.search(rf"\b{shape}\b", question.text)]
    first = {shape: min(i for i, page in enumerate(pages) if shape in page) for page in pages for shape in page}
    match question.kind:
        case "colour":
            return now[named[0]][0]
        case "shape":
            (found,) = [shape for shape, (colour, _) in now.items() if f" {colour} " in question.text]
            return found
        case "where":
            x, y = now[named[0]][1]
            words = [("top", "", "bottom")[3 * y // 128], ("left", "", "right")[3 * x // 128]]
            return " ".join(filter(None, words)) or "centre"
        case "motion":
            (x0, y0), (x1, y1) = pages[-3][named[0]][1], now[named[0]][1]
            if (x0, y0) == (x1, y1):
                return "still"
            return ("right" if x1 > x0 else "left") if x1 != x0 else ("down" if y1 > y0 else "up")
        case "count":
            return ("zero", "one", "two", "three", "four", "five", "six")[len(now)]
        case "latest" | "first":
            at = (max if question.kind == "latest" else min)(first.values())
            (found,) = [shape for shape, page in first.items() if page == at]
            return found
        case "before":
            a, b = re.findall("|".join(SHAPES), question.text)
            assert first[a] != first[b]
            return "yes" if first[a] < first[b] else "no"
        case "digit":
            return str(digit)
        case "changed":
            return "yes" if len({page[named[0]][0] for page in pages if named[0] in page}) > 1 else "no"
        case "seen":
            return "yes" if named[0] in first else "no"
    raise AssertionError(question.kind)


@given(SEEDS, TICKS)
def test_every_answer_follows_from_the_pictures_so_far(seed, tick):
    world = World(seed)
    pages = diary(world, tick)
    for question in questions(world, tick):
        assert question.answer == truth(question, pages, world.scene(tick).digit(tick))
        assert question.answer in choices(question.kind)
        assert question.time_s == tick / 2
        assert question.text == question.text.lower()
        words = (question.text.rstrip("?") + " " + question.answer).split()
        assert set(words) <= set(vocabulary())


@given(SEEDS, TICKS)
def test_the_future_changes_no_answer(seed, tick):
    world = World(seed)
    scene = world.scene(tick)
    view = View(scene, tuple(range(scene.start, tick + 1)))
    coming = tuple(replace(s, leaves=min(s.leaves, tick + 1)) for s in scene.sprites if s.appears <= tick)
    blind = View(replace(scene, sprites=coming), view.ticks)
    assert {kind: find(view) for kind, find in KINDS.items()} == {kind: find(blind) for kind, find in KINDS.items()}


@given(SEEDS, TICKS)
def test_no_text_has_two_answers(seed, tick):
    world = World(seed)
    scene = world.scene(tick)
    for find in KINDS.values():
        pairs = find(View(scene, tuple(range(scene.start, tick + 1))))
        assert len({text for text, _ in pairs}) == len(pairs)


def test_questions_repeat_and_differ_by_seed():
    assert questions(World(3), 40) == questions(World(3), 40)
    assert any(questions(World(3), t) != questions(World(4), t) for t in (20, 40))
    assert [q.kind for q in questions(World(3), 40, kinds=("digit", "count"))] == ["digit", "count"]
    with pytest.raises(ValueError, match="weather"):
        questions(World(3), 40, kinds=("weather",))
    with pytest.raises(ValueError, match="weather"):
        choices("weather")


def test_guessing_the_most_frequent_answer_does_not_pay():
    pairs = [(q.kind, q.answer) for seed in range(15) for t in range(0, 600, 5) for q in questions(World(seed), t)]
    guess, asked = majority(pairs), Counter(kind for kind, _ in pairs)
    assert set(asked) == set(KINDS)
    assert min(asked.values()) > 0.3 * max(asked.values())
    for kind, share in guess.by_kind.items():
        assert share <= (0.65 if choices(kind) == ("yes", "no") else 0.4), kind
    assert guess.macro < 0.33


def test_watches_come_true_when_the_pictures_do():
    world, start, stop = World(9), 5, 150
    found = {watch.text: watch for watch in watches(world, start, stop)}
    events = defaultdict(list)
    for tick in range(start, stop):
        pages = diary(world, tick)
        fresh = tick == start or len(pages) == 1
        for shape in pages[-1]:
            if fresh or shape not in pages[-2]:
                events[f"say when the {shape} appears"].append(tick / 2)
        if not fresh:
            both = [shape for shape in pages[-1] if shape in pages[-2]]
            if any(pages[-1][shape][0] != pages[-2][shape][0] for shape in both):
                events["say when something changes colour"].append(tick / 2)
            if world.scene(tick).digit(tick) != world.scene(tick).digit(tick - 1):
                events["say when the digit changes"].append(tick / 2)
    assert {text: list(watch.events_s) for text, watch in found.items()} == {text: events[text] for text in found}
    assert all(watch.since_s == 2.5 for watch in found.values())
    assert all(set(text.split()) <= set(vocabulary()) for text in found)
    assert sum(bool(watch.events_s) for watch in found.values()) == len(found)


def test_scoring():
    assert matches("Top left.", "top left")
    assert matches("3", "three")
    assert matches("seven", "7")
    assert matches("a star", "star")
    assert not matches("left", "top left")
    assert not matches("", "yes")
    assert normalise("The  Color:\nRED!") == "colour red"
    found = score([("colour", "red", "Red"), ("colour", "red", "blue"), ("digit", "7", "7")])
    assert found.by_kind == {"colour": 0.5, "digit": 1.0}
    assert (found.macro, found.counts) == (0.75, {"colour": 2, "digit": 1})
    assert found.micro == pytest.approx(2 / 3)
    assert majority([("a", "x"), ("a", "x"), ("a", "y")]).macro == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="nothing to score"):
        score([])
