"""All kinds at all levels: answers re-derived page by page from a diary of what could be seen."""

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.video.world import (
    ALL_INSTRUCTIONS,
    ALL_KINDS,
    GROUPS,
    INSTRUCTIONS,
    KINDS,
    LEVELS,
    NEW_INSTRUCTIONS,
    NEW_KINDS,
    Level,
    Question,
    View,
    World,
    choices,
    look,
    questions,
    vocabulary,
    watches,
)
from headrace.video.world.script import COLOURS, SHAPES

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
SEEDS, TICKS = st.integers(0, 2**41), st.integers(0, 20_000)
SLOW = replace(LEVELS["hard"], name="slow", ticks_per_frame=2)
WORLDS = st.builds(World, SEEDS, st.sampled_from([*LEVELS.values(), SLOW]))


class Page:
    """What one picture shows: of every thing its colour, place on the picture, place in the scene, and if clear."""

    def __init__(self, world: World, tick: int) -> None:
        scene = world.scene(tick)
        right, down = scene.camera(tick)
        self.tick, self.digit = tick, str(scene.digit(tick))
        self.things: dict[str, tuple[str, tuple[int, int], tuple[int, int]]] = {}
        self.hidden: set[str] = set()
        for sprite in scene.sprites:
            if sprite.appears <= tick < sprite.leaves:
                x, y = sprite.centre(tick)
                colour = sprite.colour if tick < sprite.changes else sprite.later
                self.things[sprite.shape] = (colour, (x + right, y + down), (x, y))
                wide = (
                    range((x, y)[scene.bar.axis] - sprite.radius, (x, y)[scene.bar.axis] + sprite.radius + 1)
                    if (scene.bar)
                    else ()
                )
                if scene.bar and 3 * sum(scene.bar.low <= at <= scene.bar.high for at in wide) > len(wide):
                    self.hidden.add(sprite.shape)

    def clear(self) -> dict[str, tuple[str, tuple[int, int], tuple[int, int]]]:
        return {shape: thing for shape, thing in self.things.items() if shape not in self.hidden}


def diary(world: World, tick: int) -> list[Page]:
    """A page for every different picture of the scene up to a tick."""
    start = world.scene(tick).start
    return [Page(world, t) for t in range(start, tick + 1, world.level.ticks_per_frame)]


def perceived(question: Question, pages: list[Page], size: int) -> str:
    """The answer by looking at the last pages."""
    page, now = pages[-1], pages[-1].clear()
    named = re.findall("|".join(SHAPES), question.text)
    match question.kind:
        case "colour":
            return now[named[0]][0]
        case "shape":
            (found,) = [shape for shape, thing in page.things.items() if f" {thing[0]} " in question.text]
            return found
        case "where":
            x, y = now[named[0]][1]
            words = [("top", "", "bottom")[3 * y // size], ("left", "", "right")[3 * x // size]]
            return " ".join(filter(None, words)) or "centre"
        case "motion":
            (x0, y0), (x1, y1) = pages[-3:][0].things[named[0]][2], now[named[0]][2]
            if (x0, y0) == (x1, y1):
                return "still"
            return ("right" if x1 > x0 else "left") if x1 != x0 else ("down" if y1 > y0 else "up")
        case "still":
            last = [{shape: thing[2] for shape, thing in page.clear().items()} for page in pages[-3:]]
            (found,) = [shape for shape in now if len({places[shape] for places in last}) == 1]
            assert len(page.things) == len(now) > 1
            return found
        case "count":
            assert not page.hidden
            return NUMBERS[len(now)]
        case "relation":
            (u, v), (x, y) = now[named[0]][1], now[named[1]][1]
            if abs(x - u) > abs(y - v):
                return "right" if x > u else "left"
            return "below" if y > v else "above"
        case "digit":
            return page.digit
    return remembered(question, pages, named)


def remembered(question: Question, pages: list[Page], named: list[str]) -> str:
    """The answer by going through the diary."""
    here = defaultdict(list)
    for number, page in enumerate(pages):
        for shape in page.things:
            here[shape].append(number)
    first = {shape: numbers[0] for shape, numbers in here.items()}
    gone = {shape: numbers[-1] for shape, numbers in here.items() if numbers[-1] < len(pages) - 1}
    assert all(shape in pages[number].clear() for shape, number in [*first.items(), *gone.items()])
    worn = {shape: list(dict.fromkeys(pages[number].things[shape][0] for number in here[shape])) for shape in here}
    match question.kind:
        case "latest" | "first" | "left":
            moments = gone if question.kind == "left" else first
            at = (min if question.kind == "first" else max)(moments.values())
            (found,) = [shape for shape, number in moments.items() if number == at]
            return found
        case "before":
            a, b = named
            assert first[a] != first[b]
            return "yes" if first[a] < first[b] else "no"
        case "changed":
            return "yes" if len(worn[named[0]]) > 1 else "no"
        case "colour_before":
            old, new = worn[named[0]]
            assert pages[-1].things[named[0]][0] == new
            return old
        case "seen":
            return "yes" if named[0] in first else "no"
        case "how_many":
            assert gone
            return NUMBERS[len(first)]
        case "after":
            at = min(number for number in first.values() if number > first[named[0]])
            (found,) = [shape for shape, number in first.items() if number == at]
            (colour,) = worn[found]
            return colour
        case "first_digit":
            assert pages[-1].digit != pages[0].digit
            return pages[0].digit
        case "digit_ago":
            (seconds,) = [n for n, word in enumerate(NUMBERS) if f" {word} seconds" in question.text]
            (found,) = [page.digit for page in pages if page.tick == pages[-1].tick - 2 * seconds]
            assert found != pages[-1].digit
            return found
    raise AssertionError(question.kind)


def truth(question: Question, world: World, tick: int) -> str:
    if question.kind != "scene_before":
        return perceived(question, diary(world, tick), world.level.size)
    pages = diary(world, world.scene(tick).start - 1)
    (shape,) = re.findall("|".join(SHAPES), question.text)
    (colour,) = {page.things[shape][0] for page in pages if shape in page.things}
    assert shape in pages[-1].clear()
    return colour


@given(WORLDS, TICKS)
@example(World(0), 0)
@settings(max_examples=200, deadline=None)
def test_every_answer_follows_from_the_pictures_so_far(world, tick):
    for question in questions(world, tick, kinds=tuple(ALL_KINDS)):
        assert question.answer == truth(question, world, tick), question
        assert question.answer in choices(question.kind)
        assert question.time_s == tick / 2
        assert question.text == question.text.lower()
        words = (question.text.rstrip("?") + " " + question.answer).split()
        assert set(words) <= set(vocabulary(tuple(ALL_KINDS)))


@given(WORLDS, TICKS)
@settings(max_examples=100, deadline=None)
def test_the_future_changes_no_answer_and_no_text_has_two(world, tick):
    view = look(world, tick, scenes_back=1)
    last = view.ticks[-1]
    coming = tuple(replace(s, leaves=min(s.leaves, last + 1)) for s in view.scene.sprites if s.appears <= last)
    digits = tuple((since, value) for since, value in view.scene.digits if since <= last)
    blind = replace(view, scene=replace(view.scene, sprites=coming, digits=digits, stop=last + 1))
    for name, kind in ALL_KINDS.items():
        pairs = kind(view)
        assert pairs == kind(blind), name
        assert len({text for text, _ in pairs}) == len(pairs), name


@given(WORLDS, TICKS, st.integers(0, 11), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_cut_off_and_thinned_views_are_never_wrong_about_what_they_see(world, tick, late, step):
    # Training asks about clips that begin anywhere in a scene: what began behind the bar is then left out.
    view = look(world, tick)
    ticks = view.ticks[late::step] or view.ticks[-1:]
    part = View(view.scene, ticks, view.size)
    for name in ("latest", "first", "left", "how_many", "after"):
        moments = part.exits if name == "left" else part.entries
        if ALL_KINDS[name](part):
            assert all(view.scene.clear(sprite, at) for sprite, at in moments.items())
    for text, answer in ALL_KINDS["seen"](part):
        (shape,) = [s for s in view.scene.sprites if f" {s.shape} " in text] or [None]
        assert answer == ("yes" if shape and any(view.scene.clear(shape, t) for t in ticks) else "no")


def test_the_present_kinds_are_as_they_were():
    assert list(KINDS) == [
        *("colour", "shape", "where", "motion", "count", "latest", "first", "before", "digit", "changed", "seen")
    ]
    told = [
        (q.kind, q.text, q.answer) for seed in range(4) for t in range(0, 200, 7) for q in questions(World(seed), t)
    ]
    assert hashlib.sha256(repr(told).encode()).hexdigest()[:16] == "e8e902b94938b9c5"
    assert len(vocabulary()) == 77
    assert not KINDS.keys() & NEW_KINDS.keys()
    assert len(ALL_KINDS) == 20
    for tick in (20, 33, 47):  # asking more changes nothing about what was asked before
        mixed = questions(World(3), tick, kinds=tuple(ALL_KINDS))
        assert [q for q in mixed if q.kind in KINDS] == questions(World(3), tick)


def test_kinds_say_what_they_are():
    for name, kind in ALL_KINDS.items():
        assert kind.name == name
        assert kind.group in GROUPS[:2]
        assert kind.answers == choices(name)
        assert len(set(kind.answers)) == len(kind.answers)
        assert kind.find.__doc__
    assert Counter(kind.group for kind in ALL_KINDS.values()) == {GROUPS[0]: 8, GROUPS[1]: 12}


def test_vocabulary_grows_with_what_is_asked():
    every = set(vocabulary(tuple(ALL_KINDS), ALL_INSTRUCTIONS))
    assert every > set(vocabulary())
    new = "above after ago away been below changed far have here it leaves next not of seconds side so to went"
    assert " ".join(sorted(every - set(vocabulary()))) == new
    assert vocabulary(("digit",), ()) == (*"0123456789", "cut", "digit", "display", "is", "on", "the", "what")
    with pytest.raises(ValueError, match="weather"):
        vocabulary(("weather",))


def test_past_scenes_are_remembered_as_far_as_asked():
    world = World(5)
    tick = world.scene(60).start + 3
    view = look(world, tick, scenes_back=2)
    assert [part.scene for part in view.past] == [
        world.scene(world.scene(view.scene.start - 1).start - 1),
        world.scene(view.scene.start - 1),
    ]
    assert view.past[-1].ticks[-1] == view.scene.start - 1
    assert look(world, tick).past == ()
    assert look(world, 3, scenes_back=2).past == ()
    assert not any(q.kind == "scene_before" for q in questions(world, 3, kinds=tuple(ALL_KINDS)))


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_a_flash_is_asked_about(seed, tick):
    world = World(seed, replace(LEVELS["hard"], flashes=100))
    scene = world.scene(tick)
    flashes = [s for s in scene.sprites if s.leaves - s.appears == 1]
    for flash in flashes:
        on, off = look(world, flash.appears), look(world, flash.leaves)
        assert (f"what colour is the {flash.shape}?", flash.colour) in ALL_KINDS["colour"](on)
        assert (f"was there a {flash.shape} in this scene?", "yes") in ALL_KINDS["seen"](off)
        assert not any(f" {flash.shape}?" in text for text, _ in ALL_KINDS["colour"](off))
        gone = [s for s, at in off.exits.items() if at == flash.appears]
        assert flash in gone
        assert ALL_KINDS["left"](off) == ([("which shape went away last?", flash.shape)] if len(gone) == 1 else [])


def test_flashes_turn_up_among_the_questions_of_a_stream():
    asked = 0
    for seed in range(12):
        world = World(seed, LEVELS["hard"])
        for tick in range(7, 200, 4):
            flashed = {s.shape for s in look(world, tick).exits if s.leaves - s.appears == 1}
            for question in questions(world, tick, kinds=("seen", "left", "latest")):
                asked += question.answer != "no" and any(
                    re.search(rf"\b{shape}\b", question.text + " " + question.answer) for shape in flashed
                )
    assert asked > 100


@pytest.mark.parametrize("level", [Level(), LEVELS["hard"], SLOW], ids=lambda level: level.name)
def test_watches_come_true_when_the_pictures_do(level):
    world, start, stop = World(9, level), 6, 400
    found = {watch.text: list(watch.events_s) for watch in watches(world, start, stop, instructions=ALL_INSTRUCTIONS)}
    events, met, last, cut = defaultdict(list), set(), None, world.scene(start).start
    for tick in range(start, stop):
        if tick > start and world.shown(tick) != tick:
            continue
        if world.scene(tick).start != cut:
            cut, last, met = world.scene(tick).start, None, set()
            events["say when there is a cut"].append(tick / 2)
        page = Page(world, world.shown(tick))
        for shape in page.clear().keys() - met:
            events[f"say when the {shape} appears"].append(tick / 2)
        met |= page.clear().keys()
        if last:
            if last.things.keys() - page.things.keys():
                events["say when something leaves"].append(tick / 2)
            if any(page.things[s][0] != last.things[s][0] for s in page.things.keys() & last.things.keys()):
                events["say when something changes colour"].append(tick / 2)
            if page.digit != last.digit:
                events["say when the digit changes"].append(tick / 2)
        last = page
    assert found == {text: events[text] for text in found}
    assert all(found.values())
    assert all(set(text.split()) <= set(vocabulary(instructions=ALL_INSTRUCTIONS)) for text in found)


def test_watches_watch_what_they_are_told():
    assert INSTRUCTIONS + NEW_INSTRUCTIONS == ALL_INSTRUCTIONS
    assert [watch.text for watch in watches(World(1), 0, 9, instructions=NEW_INSTRUCTIONS)] == list(NEW_INSTRUCTIONS)
    assert len(watches(World(1), 0, 9)) == len(SHAPES) + 2
    with pytest.raises(ValueError, match="say when it rains"):
        watches(World(1), 0, 9, instructions=("say when it rains",))
    assert len(COLOURS) == 8
