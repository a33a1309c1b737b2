"""Backward tracing: what has been, in the order it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from headrace.video.world.kind import NUMBERS, PAST, SECONDS, YES_NO, Pairs, kind
from headrace.video.world.script import TICKS_PER_SECOND
from headrace.video.world.sprite import COLOURS, SHAPES, Sprite
from headrace.video.world.view import View

DIGITS = tuple("0123456789")


@kind(PAST, SHAPES, "which shape appeared last?")
def latest(view: View, text: str) -> Pairs:
    """Shape that came last, when it came alone and after the first frame."""
    return _extreme(view.entries, max, view, text) if len(view.entries) > 1 else []


@kind(PAST, SHAPES, "which shape appeared first?")
def first(view: View, text: str) -> Pairs:
    """Shape that was there before all others."""
    return _extreme(view.entries, min, view, text) if len(view.entries) > 1 else []


@kind(PAST, SHAPES, "which shape went away last?")
def left(view: View, text: str) -> Pairs:
    """Shape that is gone and was there longer than all others that are gone."""
    return _extreme(view.exits, max, view, text) if view.exits else []


def _extreme(moments: dict[Sprite, int], best: Callable[[Iterator[int]], int], view: View, text: str) -> Pairs:
    tick = best(iter(moments.values()))
    found = [s for s, t in moments.items() if t == tick]
    return [(text, found[0].shape)] if len(found) == 1 and view.clearly(moments) else []


@kind(PAST, YES_NO, "did the {shape} appear before the {other}?")
def before(view: View, text: str) -> Pairs:
    """Order in which two things came."""
    entries = view.entries
    sure = [s for s in entries if view.clearly({s: entries[s]})]
    return [
        (text.format(shape=a.shape, other=b.shape), "yes" if entries[a] < entries[b] else "no")
        for a in sure
        for b in sure
        if entries[a] != entries[b]
    ]


@kind(PAST, YES_NO, "did the {shape} change colour?", skewed=True)
def changed(view: View, text: str) -> Pairs:
    """Whether something on the picture has been seen in two colours."""
    found = [(s, view.colours(s)) for s in view.now]
    return [
        (text.format(shape=s.shape), "yes" if len(set(colours)) > 1 else "no")
        for s, colours in found
        if len(colours) > 2
    ]


@kind(PAST, COLOURS, "what colour was the {shape} before it changed?")
def colour_before(view: View, text: str) -> Pairs:
    """Colour that something on the picture had when it came, now that it has another."""
    found = [(s, view.colours(s)) for s in view.now]
    return [(text.format(shape=s.shape), colours[0]) for s, colours in found if len(set(colours)) > 1]


@kind(PAST, YES_NO, "was there a {shape} in this scene?", skewed=True)
def seen(view: View, text: str) -> Pairs:
    """Whether a shape has been seen; things that have left come before those still there."""
    here = {s.shape for s in view.scene.visible(view.ticks[-1])}
    ever = {s.shape for s in view.entries}
    hidden = {s.shape for s in view.entries if not view.colours(s)}
    return [
        (text.format(shape=s), "yes" if s in ever else "no")
        for s in SHAPES
        if (s not in here or ever == here) and s not in hidden
    ]


@kind(PAST, NUMBERS, "how many things have been here so far?", skewed=True)
def how_many(view: View, text: str) -> Pairs:
    """Number of things seen in this scene, once one of them has left."""
    return [(text, NUMBERS[len(view.entries)])] if view.exits and view.clearly(view.entries) else []


@kind(PAST, COLOURS, "what colour was the next thing to appear after the {shape}?")
def after(view: View, text: str) -> Pairs:
    """Colour of the thing that came alone and next after another, when it has had one colour only."""
    entries, pairs = view.entries, []
    for sprite, tick in entries.items():
        soonest = min((t for t in entries.values() if t > tick), default=None)
        found = [s for s, t in entries.items() if t == soonest]
        if len(found) == 1 and len(set(view.colours(found[0]))) == 1 and view.clearly(entries):
            pairs.append((text.format(shape=sprite.shape), view.colours(found[0])[0]))
    return pairs


@kind(PAST, DIGITS, "what was the first digit in this scene?")
def first_digit(view: View, text: str) -> Pairs:
    """Digit of the first frame, once the display shows another."""
    old = view.scene.digit(view.ticks[0])
    return [(text, str(old))] if old != view.scene.digit(view.ticks[-1]) else []


@kind(PAST, DIGITS, "what digit was on the display {number} seconds ago?")
def digit_ago(view: View, text: str) -> Pairs:
    """Digit some seconds ago, where it is another now and was the same a frame earlier and a frame later."""
    pairs, last = [], view.ticks[-1]
    for seconds in SECONDS:
        tick = last - seconds * TICKS_PER_SECOND
        near = {view.scene.digit(max(view.ticks[0], tick + shift)) for shift in (-view.spacing, 0, view.spacing)}
        if tick in view.ticks and len(near) == 1 and (old := near.pop()) != view.scene.digit(last):
            pairs.append((text.format(number=NUMBERS[seconds]), str(old)))
    return pairs


@kind(PAST, COLOURS, "what colour was the {shape} before the cut?", scenes_back=1)
def scene_before(view: View, text: str) -> Pairs:
    """Colour of something the last scene ended with, when it has had one colour only."""
    then = view.past[-1] if view.past else None
    if then is None:
        return []
    found = [(s, set(then.colours(s))) for s in then.now]
    return [(text.format(shape=s.shape), colours.pop()) for s, colours in found if len(colours) == 1]
