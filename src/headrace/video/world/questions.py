"""Questions about what was seen, with the one answer that the frames up to the asking time allow.

A kind is a function from a ``View`` to every (text, answer) pair that is unambiguous there; nothing after the view's
last tick is looked at. Adding a kind is adding a function to ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.video.world.generator import Draw
from headrace.video.world.script import COLOURS, DIRECTIONS, SHAPES, TICKS_PER_SECOND, Scene, Sprite, World

ASK = 5  # purpose of a draw
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
MARGIN = 3  # pixels between a sprite's centre and the nearest line of the 3x3 grid, for "where" to be clear
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """One question about the stream.

    Attributes:
        kind: One of ``KINDS``.
        text: What is asked, lower case.
        answer: The right answer, one or two lower-case words.
        time_s: Asked right after the frame of this time, in seconds.
    """

    kind: str
    text: str
    answer: str
    time_s: float


@dataclass(frozen=True, slots=True)
class View:
    """Some ticks of one scene, in order: all that a question may rest on."""

    scene: Scene
    ticks: tuple[int, ...]
    size: int = 128

    @property
    def now(self) -> tuple[Sprite, ...]:
        """Sprites on the last picture."""
        return self.scene.visible(self.ticks[-1])

    @property
    def entries(self) -> dict[Sprite, int]:
        """Every sprite of the view with the tick where it is first seen."""
        seen = {}
        for sprite in self.scene.sprites:
            tick = next((tick for tick in self.ticks if sprite.visible(tick)), None)
            if tick is not None:
                seen[sprite] = tick
        return seen

    def colours(self, sprite: Sprite) -> list[str]:
        """Return the colours a sprite is seen in, one per tick where it is visible."""
        return [sprite.colour_at(tick) for tick in self.ticks if sprite.visible(tick)]


def place(sprite: Sprite, tick: int, size: int) -> str | None:
    """Name the ninth of the picture a sprite's centre lies in, None when it is too close to a line."""
    cells = []
    for value in sprite.centre(tick):
        cell, third = 3 * value // size, size // 3
        if min(abs(value - third), abs(value - 2 * third - 1)) < MARGIN:
            return None
        cells.append(cell)
    return " ".join(word for word in (ROWS[cells[1]], COLUMNS[cells[0]]) if word) or "centre"


def colour(view: View) -> Pairs:
    """Colour that something on the picture has now."""
    last = view.ticks[-1]
    return [(f"what colour is the {s.shape}?", s.colour_at(last)) for s in view.now]


def shape(view: View) -> Pairs:
    """Shape of the only thing of a colour."""
    last = view.ticks[-1]
    worn = [s.colour_at(last) for s in view.now]
    return [
        (f"what shape is the {c} thing?", s.shape) for s, c in zip(view.now, worn, strict=True) if worn.count(c) == 1
    ]


def where(view: View) -> Pairs:
    """Ninth of the picture where something is now."""
    found = [(s, place(s, view.ticks[-1], view.size)) for s in view.now]
    return [(f"where is the {s.shape}?", name) for s, name in found if name]


def motion(view: View) -> Pairs:
    """Direction something has kept over the last three frames, or over the last two when they lie apart."""
    span = range(view.ticks[-3:][0] + 1, view.ticks[-1] + 1)
    if len(span) < 2:
        return []
    pairs = []
    for sprite in view.now:
        ways = {sprite.heading(tick) for tick in span}
        if len(ways) == 1 and (way := ways.pop()):
            pairs.append((f"which way is the {sprite.shape} moving?", way))
    return pairs


def count(view: View) -> Pairs:
    """Number of things on the picture now; the display does not count."""
    return [("how many things are there?", NUMBERS[len(view.now)])]


def latest(view: View) -> Pairs:
    """Shape that came last, when it came alone and after the first frame."""
    return _extreme(view, max, "which shape appeared last?") if len(view.entries) > 1 else []


def first(view: View) -> Pairs:
    """Shape that was there before all others."""
    return _extreme(view, min, "which shape appeared first?") if len(view.entries) > 1 else []


def _extreme(view: View, best: Callable[[Iterator[int]], int], text: str) -> Pairs:
    entries = view.entries
    tick = best(iter(entries.values()))
    found = [s for s, t in entries.items() if t == tick]
    return [(text, found[0].shape)] if len(found) == 1 else []


def before(view: View) -> Pairs:
    """Order in which two things came."""
    entries = view.entries
    return [
        (f"did the {a.shape} appear before the {b.shape}?", "yes" if entries[a] < entries[b] else "no")
        for a in entries
        for b in entries
        if entries[a] != entries[b]
    ]


def digit(view: View) -> Pairs:
    """Digit on the display now."""
    return [("what digit is on the display?", str(view.scene.digit(view.ticks[-1])))]


def changed(view: View) -> Pairs:
    """Whether something on the picture has been seen in two colours."""
    return [
        (f"did the {s.shape} change colour?", "yes" if len(set(view.colours(s))) > 1 else "no")
        for s in view.now
        if len(view.colours(s)) > 2
    ]


def seen(view: View) -> Pairs:
    """Whether a shape has been seen; things that have left come before those still there."""
    here, ever = {s.shape for s in view.now}, {s.shape for s in view.entries}
    return [
        (f"was there a {s} in this scene?", "yes" if s in ever else "no")
        for s in SHAPES
        if s not in here or ever == here
    ]


KINDS: dict[str, Callable[[View], Pairs]] = {
    kind.__name__: kind for kind in (colour, shape, where, motion, count, latest, first, before, digit, changed, seen)
}


def choices(kind: str) -> tuple[str, ...]:
    """Return every answer a kind of question can have.

    Raises:
        ValueError: There is no such kind.
    """
    places = tuple(" ".join(word for word in (r, c) if word) or "centre" for r in ROWS for c in COLUMNS)
    closed = {
        "colour": COLOURS,
        "where": places,
        "motion": tuple(DIRECTIONS),
        "count": NUMBERS,
        "digit": tuple("0123456789"),
        "before": ("yes", "no"),
        "changed": ("yes", "no"),
        "seen": ("yes", "no"),
    } | dict.fromkeys(("shape", "latest", "first"), SHAPES)
    if kind not in closed:
        raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(KINDS)}")
    return closed[kind]


def draw_pair(pairs: Pairs, draw: Draw) -> tuple[str, str]:
    """Pick a pair: first the answer, evenly among those at hand, then the text."""
    answer = draw.pick(sorted({answer for _, answer in pairs}))
    return draw.pick([pair for pair in pairs if pair[1] == answer])


def questions(world: World, tick: int, *, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Question]:
    """Return at most one question of each kind, asked right after the frame at a tick.

    Args:
        world: The world; the answers rest on its current scene up to ``tick`` alone.
        tick: Moment of the question, >= 0.
        kinds: Which kinds to ask.

    Returns:
        Questions in the order of ``kinds``; a kind that is ambiguous now is left out.

    Raises:
        ValueError: A kind is unknown.
    """
    scene = world.scene(tick)
    view = View(scene, tuple(range(scene.start, tick + 1)), world.level.size)
    asked = []
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(KINDS)}")
        number = list(KINDS).index(kind)
        draw, pairs = Draw(world.seed, ASK, tick, number), KINDS[kind](view)
        sure = len({answer for _, answer in pairs}) == 1 and choices(kind) == ("yes", "no")
        if pairs and not (sure and draw.chance(60)):  # mostly ask yes or no where both could be the answer
            text, answer = draw_pair(pairs, draw)
            asked.append(Question(kind, text, answer, tick / TICKS_PER_SECOND))
    return asked


def vocabulary() -> tuple[str, ...]:
    """Return every word of every question and answer of the world, and of its instructions, sorted."""
    texts = [answer for kind in KINDS for answer in choices(kind)]
    texts += [
        "what colour is the where which way moving how many things are there shape appeared last first",
        "thing did appear before digit on display change was a in this scene",
        "say when appears changes something cut",
    ]
    return tuple(sorted({word for text in texts for word in text.split()}))
