"""What a kind of question is."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from dataclasses import dataclass

from headrace.video.world.generator import Draw
from headrace.video.world.sprite import COLOURS, SHAPES
from headrace.video.world.view import View

NOW, PAST, FORWARD = "real-time perception", "backward tracing", "forward active responding"
GROUPS = (NOW, PAST, FORWARD)  # as the field's benchmarks sort them; standing instructions are the third
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
YES_NO = ("yes", "no")
SECONDS = range(2, 6)  # how long ago a question may look, in seconds
FILLERS = {"shape": SHAPES, "other": SHAPES, "colour": COLOURS, "number": tuple(NUMBERS[n] for n in SECONDS)}
SURE = 60  # percent of the yes-or-no questions left out where only one of the two could be the answer
Pairs = list[tuple[str, str]]
Find = Callable[[View, str], Pairs]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: from a view to every (text, answer) that is unambiguous there.

    Attributes:
        find: The function, from a view and ``text``; nothing after the view's last tick is looked at.
        group: One of ``GROUPS``.
        answers: Every answer it can have.
        text: The question, with the keys of ``FILLERS`` in braces.
        scenes_back: How many scenes before the current one it may look at.
        skewed: Some of its answers come up more often than others by the world's nature; see ``fair``.
    """

    find: Find
    group: str
    answers: tuple[str, ...]
    text: str
    scenes_back: int = 0
    skewed: bool = False

    @property
    def name(self) -> str:
        """What the kind is called."""
        return self.find.__name__

    @property
    def words(self) -> set[str]:
        """Every word of its questions and answers."""
        return words(self.text) | {word for answer in self.answers for word in answer.split()}

    def __call__(self, view: View) -> Pairs:
        """Return every (text, answer) that is unambiguous in a view."""
        return self.find(view, self.text)

    def ask(self, view: View, draw: Draw) -> tuple[str, str] | None:
        """Draw a (text, answer), or None when there is none to ask or chance says so.

        Mostly ask yes or no where both could be the answer.
        """
        pairs = self(view)
        sure = len({answer for _, answer in pairs}) == 1 and self.answers == YES_NO
        return draw_pair(pairs, draw) if pairs and not (sure and draw.chance(SURE)) else None


def kind(
    group: str, answers: tuple[str, ...], text: str, *, scenes_back: int = 0, skewed: bool = False
) -> Callable[[Find], Kind]:
    """Make a function a kind of question."""
    return lambda find: Kind(find, group, answers, text, scenes_back, skewed)


def words(text: str) -> set[str]:
    """Return every word of a text with placeholders, those that may stand for them included."""
    found = set()
    for plain, key, _, _ in string.Formatter().parse(text):
        found |= set(plain.rstrip("?").split()) | set(FILLERS[key] if key else ())
    return found


def texts(text: str) -> list[str]:
    """Return every text that a text with placeholders may become."""
    keys = [key for _, key, _, _ in string.Formatter().parse(text) if key]
    fills = itertools.product(*(FILLERS[key] for key in keys))
    return [text.format(**dict(zip(keys, fill, strict=True))) for fill in fills]


def draw_pair(pairs: Pairs, draw: Draw) -> tuple[str, str]:
    """Pick a pair: first the answer, evenly among those at hand, then the text."""
    answer = draw.pick(sorted({answer for _, answer in pairs}))
    return draw.pick([pair for pair in pairs if pair[1] == answer])
