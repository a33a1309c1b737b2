"""Real-time perception: what the last picture shows, or the last few."""

from __future__ import annotations

from headrace.video.world.kind import NOW, NUMBERS, Pairs, kind
from headrace.video.world.sprite import COLOURS, DIRECTIONS, SHAPES, Sprite
from headrace.video.world.view import PLACES, View, place

SIDES = ("left", "right", "above", "below")


@kind(NOW, COLOURS, "what colour is the {shape}?")
def colour(view: View, text: str) -> Pairs:
    """Colour that something on the picture has now."""
    last = view.ticks[-1]
    return [(text.format(shape=s.shape), s.colour_at(last)) for s in view.now]


@kind(NOW, SHAPES, "what shape is the {colour} thing?")
def shape(view: View, text: str) -> Pairs:
    """Shape of the only thing of a colour."""
    last = view.ticks[-1]
    worn = [s.colour_at(last) for s in view.scene.visible(last)]
    found = [(s, s.colour_at(last)) for s in view.now]
    return [(text.format(colour=c), s.shape) for s, c in found if worn.count(c) == 1]


@kind(NOW, PLACES, "where is the {shape}?", skewed=True)
def where(view: View, text: str) -> Pairs:
    """Ninth of the picture where something is now."""
    last = view.ticks[-1]
    camera = view.scene.camera(last)
    found = [(s, place(s, last, view.size, camera)) for s in view.now]
    return [(text.format(shape=s.shape), name) for s, name in found if name]


@kind(NOW, tuple(DIRECTIONS), "which way is the {shape} moving?", skewed=True)
def motion(view: View, text: str) -> Pairs:
    """Direction something has kept over the last three frames, or over the last two when they lie apart.

    It is the way through the scene: what the camera does is not the thing's doing.
    """
    found = [(s, _headings(view, s)) for s in view.now]
    return [(text.format(shape=s.shape), way) for s, ways in found if len(ways) == 1 and (way := ways.pop())]


def _headings(view: View, sprite: Sprite) -> set[str | None]:
    """Every direction of a sprite over the last three frames; none when they are too few or it was covered."""
    ticks = view.ticks[-3:]
    span = range(ticks[0] + 1, ticks[-1] + 1)
    if len(span) < 2 or any(sprite.visible(tick) and not view.scene.clear(sprite, tick) for tick in ticks):
        return set()
    return {sprite.heading(tick) for tick in span}


@kind(NOW, SHAPES, "which thing is not moving?")
def still(view: View, text: str) -> Pairs:
    """Shape of the one thing at rest while all others have moved over the last three frames."""
    ways = {s: _headings(view, s) for s in view.scene.visible(view.ticks[-1])}
    known = all(ways.values()) and all(s.visible(view.ticks[-3:][0]) for s in ways)
    resting = [s for s, found in ways.items() if found == {"still"}]
    return [(text, resting[0].shape)] if known and len(ways) > 1 and len(resting) == 1 else []


@kind(NOW, NUMBERS, "how many things are there?", skewed=True)
def count(view: View, text: str) -> Pairs:
    """Number of things on the picture now; the display does not count."""
    return [] if view.covered else [(text, NUMBERS[len(view.now)])]


@kind(NOW, SIDES, "on which side of the {other} is the {shape}?")
def relation(view: View, text: str) -> Pairs:
    """Side of one thing that another is on, when it lies at most half as far off across."""
    pairs, far, last = [], view.size // 8, view.ticks[-1]
    for one in view.now:
        for other in view.now:
            (x, y), (u, v) = one.centre(last), other.centre(last)
            right, down = x - u, y - v
            if abs(right) >= far and abs(right) >= 2 * abs(down):
                side = "right" if right > 0 else "left"
            elif abs(down) >= far and abs(down) >= 2 * abs(right):
                side = "below" if down > 0 else "above"
            else:
                continue
            pairs.append((text.format(other=other.shape, shape=one.shape), side))
    return pairs


@kind(NOW, tuple("0123456789"), "what digit is on the display?")
def digit(view: View, text: str) -> Pairs:
    """Digit on the display now."""
    return [(text, str(view.scene.digit(view.ticks[-1])))]
