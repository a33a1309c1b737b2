"""Draw a scene: who comes when, goes where and leaves again, so that no two ever touch."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from headrace.video.world.generator import Draw
from headrace.video.world.levels import Level
from headrace.video.world.scene import PANEL, Bar, Scene
from headrace.video.world.sprite import COLOURS, DIRECTIONS, ODD_COLOURS, ODD_SHAPES, SHAPES, Sprite

SCENE, FLASH, BAR, DISTRACTOR = 2, 10, 11, 12  # purposes of a draw
TRIES = 40  # places tried for a sprite before it is left out


@lru_cache(maxsize=64)
def cast(seed: int, level: Level, number: int, start: int, stop: int) -> Scene:
    """Draw scene ``number`` of a world, which lasts from tick ``start`` to before tick ``stop``."""
    draw = Draw(seed, SCENE, number)
    corner = level.size - 4
    panel = (draw.pick((4, corner - PANEL[0])), draw.pick((4, corner - PANEL[1])))
    scene = Scene((seed, SCENE, number), start, stop, (), panel, (), level, bar=_bar(level, seed, number))
    shapes = draw.shuffled(SHAPES)[: draw.between(*level.sprites)]
    early = draw.pick((1, 1, 1, 2, 4))
    flash = Draw(seed, FLASH, number)
    flashing = flash.chance(level.flashes)
    for place, shape in enumerate(shapes[: len(SHAPES) - flashing]):
        appears = start if place < early else start + draw.between(1, stop - start - 4)
        scene = _join(scene, _plan(draw, level, shape, appears, stop), draw)
    digits = _digits(draw, start, stop)
    if flashing:
        scene = _join(scene, _flash(flash, scene), flash)
    return replace(scene, digits=digits, distractors=_distractors(scene, Draw(seed, DISTRACTOR, number)))


def _join(scene: Scene, plan: Sprite, draw: Draw) -> Scene:
    """Place a sprite where it stays clear of all others, or leave it out."""
    for _ in range(TRIES):
        sprite = replace(plan, start=(draw.between(plan.low, plan.high), draw.between(plan.low, plan.high)))
        if fits(sprite, scene):
            return replace(scene, sprites=(*scene.sprites, sprite))
    return scene


def _digits(draw: Draw, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    digits = [(start, draw.below(10))]
    while (tick := digits[-1][0] + draw.between(4, 10)) < stop:
        digits.append((tick, (digits[-1][1] + draw.between(1, 9)) % 10))
    return tuple(digits)


def _plan(draw: Draw, level: Level, shape: str, appears: int, stop: int) -> Sprite:
    """Draw everything about a sprite but its place."""
    leaves = draw.between(appears + 4, stop - 1) if draw.chance(40) and appears + 5 < stop else stop
    colour = draw.below(len(COLOURS))
    later, changes = colour, leaves
    if leaves - appears >= 5 and draw.chance(60):
        later = (colour + draw.between(1, len(COLOURS) - 1)) % len(COLOURS)
        changes = draw.between(appears + 2, leaves - 2)
    way = DIRECTIONS[draw.pick(tuple(DIRECTIONS))]
    speed = draw.between(*level.speed)
    radius = draw.between(*level.radius)
    return Sprite(
        shape=shape,
        colour=COLOURS[colour],
        later=COLOURS[later],
        appears=appears,
        changes=changes,
        leaves=leaves,
        radius=radius,
        start=(0, 0),
        velocity=(way[0] * speed, way[1] * speed),
        low=radius + 2 + level.reach,
        high=level.size - radius - 3 - level.reach,
    )


def _flash(draw: Draw, scene: Scene) -> Sprite:
    """Draw a sprite of a shape nobody wears that is there for one frame, neither the scene's first nor its last."""
    hold, level = scene.level.ticks_per_frame, scene.level
    last = (scene.stop - scene.start - 1) // hold
    tick = scene.start + hold * draw.between(1, max(1, last - 1))
    worn = {sprite.shape for sprite in scene.sprites}
    plan = _plan(draw, level, draw.pick([shape for shape in SHAPES if shape not in worn]), tick, scene.stop)
    leaves = min(tick + hold, scene.stop)
    return replace(plan, later=plan.colour, changes=leaves, leaves=leaves, velocity=(0, 0))


def _bar(level: Level, seed: int, number: int) -> Bar | None:
    draw = Draw(seed, BAR, number)
    if not level.bar or not draw.chance(60):
        return None
    low = draw.between(level.size // 5, level.size * 4 // 5 - level.bar)
    return Bar(draw.below(2), low, low + level.bar - 1)


def _distractors(scene: Scene, draw: Draw) -> tuple[Sprite, ...]:
    """Draw what moves about in vain for as long as the scene lasts."""
    level, found = scene.level, []
    for _ in range(draw.between(*level.distractors)):
        plan = _plan(draw, level, draw.pick(ODD_SHAPES), scene.start, scene.stop)
        colour = draw.pick(ODD_COLOURS)
        start = (draw.between(plan.low, plan.high), draw.between(plan.low, plan.high))
        speed = tuple(draw.pick((-1, 1)) * draw.between(*level.speed) for _ in range(2))
        found.append(
            replace(
                plan,
                colour=colour,
                later=colour,
                changes=scene.stop,
                leaves=scene.stop,
                start=start,
                velocity=(speed[0], speed[1]),
            )
        )
    return tuple(found)


def fits(sprite: Sprite, scene: Scene) -> bool:
    """Tell whether a sprite stays clear of the display and of all others for as long as it is there.

    Where there is a bar, it also has to come, change and leave in the open.
    """
    panel, reach = scene.panel, scene.level.reach
    middle = (panel[0] + PANEL[0] // 2, panel[1] + PANEL[1] // 2)
    clear = sprite.radius + 2
    for tick in range(sprite.appears, min(sprite.leaves, scene.stop)):
        x, y = sprite.centre(tick)
        if abs(x - middle[0]) < clear + reach + PANEL[0] // 2 and abs(y - middle[1]) < clear + reach + PANEL[1] // 2:
            return False
        for other in scene.sprites:
            if other.visible(tick):
                u, v = other.centre(tick)
                if abs(x - u) < clear + other.radius and abs(y - v) < clear + other.radius:
                    return False
    return scene.bar is None or not any(scene.bar.covers(sprite, tick) for tick in _moments(sprite, scene))


def _moments(sprite: Sprite, scene: Scene) -> set[int]:
    """Return the ticks of the frames at which a sprite comes, changes or leaves, and just before."""
    hold = scene.level.ticks_per_frame
    near = {sprite.appears + i for i in range(hold)}
    if sprite.leaves < scene.stop:
        near |= {sprite.leaves - 1 - i for i in range(hold)}
    if sprite.changes < sprite.leaves:
        near |= {sprite.changes + i for i in range(-hold, hold)}
    return {tick for tick in near if sprite.visible(tick)}
