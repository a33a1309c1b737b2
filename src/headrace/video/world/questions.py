"""Questions about what was seen, with the one answer that the frames up to the asking time allow.

A kind of question is a function from a ``View`` to every (text, answer) pair that is unambiguous there; nothing after
the view's last tick is looked at. Adding a kind is writing it in ``perceive`` or ``recall`` and listing it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.video.world import perceive, recall
from headrace.video.world.fair import odds
from headrace.video.world.generator import Draw
from headrace.video.world.kind import GROUPS, Kind, draw_pair, words
from headrace.video.world.script import TICKS_PER_SECOND, World
from headrace.video.world.view import View, look, place
from headrace.video.world.watches import INSTRUCTIONS

__all__ = [
    "ALL_KINDS",
    "GROUPS",
    "KINDS",
    "NEW_KINDS",
    "Kind",
    "Question",
    "View",
    "choices",
    "draw_pair",
    "look",
    "place",
    "questions",
    "vocabulary",
]

ASK, KEEP = 5, 6  # purposes of a draw

# The kinds that the first nano was trained on, in the order their draws are numbered; new ones go behind.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        perceive.colour,
        perceive.shape,
        perceive.where,
        perceive.motion,
        perceive.count,
        recall.latest,
        recall.first,
        recall.before,
        perceive.digit,
        recall.changed,
        recall.seen,
    )
}
NEW_KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        perceive.relation,
        perceive.still,
        recall.left,
        recall.colour_before,
        recall.how_many,
        recall.after,
        recall.first_digit,
        recall.digit_ago,
        recall.scene_before,
    )
}
ALL_KINDS = KINDS | NEW_KINDS


@dataclass(frozen=True, slots=True)
class Question:
    """One question about the stream.

    Attributes:
        kind: One of ``ALL_KINDS``.
        text: What is asked, lower case.
        answer: The right answer, one or two lower-case words.
        time_s: Asked right after the frame of this time, in seconds.
    """

    kind: str
    text: str
    answer: str
    time_s: float


def choices(kind: str) -> tuple[str, ...]:
    """Return every answer a kind of question can have.

    Raises:
        ValueError: There is no such kind.
    """
    return _kind(kind).answers


def _kind(name: str) -> Kind:
    if name not in ALL_KINDS:
        raise ValueError(f"unknown kind of question {name!r}; known: {', '.join(ALL_KINDS)}")
    return ALL_KINDS[name]


def questions(world: World, tick: int, *, kinds: Sequence[str] = tuple(KINDS), fair: bool = False) -> list[Question]:
    """Return at most one question of each kind, asked right after the frame at a tick.

    Args:
        world: The world; the answers rest on its frames up to ``tick`` alone.
        tick: Moment of the question, >= 0.
        kinds: Which kinds to ask.
        fair: Leave out so many questions with common answers that guessing does not pay; takes a second or so per
            level at the first call.

    Returns:
        Questions in the order of ``kinds``; a kind that is ambiguous now is left out.

    Raises:
        ValueError: A kind is unknown.
    """
    wanted = [_kind(name) for name in kinds]
    view = look(world, tick, scenes_back=max((kind.scenes_back for kind in wanted), default=0))
    asked = []
    for kind in wanted:
        number = list(ALL_KINDS).index(kind.name)
        found = kind.ask(view, Draw(world.seed, ASK, tick, number))
        if found is None:
            continue
        text, answer = found
        share = odds(world.level, tuple(ALL_KINDS.values())).get((kind.name, answer), 1000) if fair else 1000
        if Draw(world.seed, KEEP, tick, number).below(1000) < share:
            asked.append(Question(kind.name, text, answer, tick / TICKS_PER_SECOND))
    return asked


def vocabulary(kinds: Sequence[str] = tuple(KINDS), instructions: Sequence[str] = INSTRUCTIONS) -> tuple[str, ...]:
    """Return every word of every question and answer, and of the standing instructions, sorted.

    Args:
        kinds: Kinds of questions.
        instructions: Standing instructions with placeholders, such as ``ALL_INSTRUCTIONS``.

    Raises:
        ValueError: A kind is unknown.
    """
    found = {word for text in instructions for word in words(text)} | {"cut"}
    return tuple(sorted(found.union(*(_kind(name).words for name in kinds))))
