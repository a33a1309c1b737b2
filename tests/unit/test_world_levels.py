"""Levels and their knobs: each does what it says, alone and together, and the truth follows the picture."""

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.video.world import LEVELS, Level, World, foreground, frames, render
from headrace.video.world.backdrop import backdrop, scenery
from headrace.video.world.casting import cast
from headrace.video.world.generator import grain, words
from headrace.video.world.look import ODD_CORNERS, ODD_RGB, RGB, stencil
from headrace.video.world.script import PANEL, SHAPES

GOLDEN = [
    ("easy", 0, 0, "22562f11e0313b6a"),
    ("easy", 7, 14, "f809cdd878527781"),
    ("easy", 1099511627781, 1000, "c4d11c356590826d"),
    ("hard", 0, 0, "401a4884f1c0f97e"),
    ("hard", 7, 14, "435def8e83db31ed"),
    ("hard", 7, 99999, "811992c16b07ab60"),
    ("hard", 1099511627781, 1000, "5b23e37a60061243"),
]
HARD = LEVELS["hard"]
KNOBS = {
    "clutter": (4, 8), "distractors": (2, 3), "shake": 2, "pan": 5, "drift": 32, "noise": 10, "flashes": 100,
    "bar": 18, "ticks_per_frame": 2,
}  # fmt: skip
PLAIN = replace(HARD, noise=0, drift=0)  # the hard level in exact colours
SEEDS, TICKS = st.integers(0, 2**41), st.integers(0, 100_000)


@pytest.mark.parametrize(("name", "seed", "tick", "digest"), GOLDEN)
def test_pixels_are_golden(name, seed, tick, digest):
    assert hashlib.sha256(render(World(seed, LEVELS[name]), tick).tobytes()).hexdigest()[:16] == digest


def test_levels_are_what_they_are_called():
    assert list(LEVELS) == ["easy", "standard", "hard"]
    assert all(level.name == name for name, level in LEVELS.items())
    assert LEVELS["standard"] == Level()
    assert LEVELS["easy"].sprites < Level().sprites < HARD.sprites
    assert HARD.radius < Level().radius < LEVELS["easy"].radius
    assert HARD.size // 16 == 10
    assert all(getattr(HARD, knob) for knob in KNOBS)


@pytest.mark.parametrize(
    "level", [*LEVELS.values(), replace(HARD, name="slow", ticks_per_frame=3)], ids=lambda x: x.name
)
def test_any_tick_can_be_had_without_the_ones_before(level):
    played = [frame.image.numpy() for frame in frames(World(11, level), 0, 45)]
    for tick in (44, 3, 17, 30, 16):
        for cached in (cast, scenery, backdrop):
            cached.cache_clear()
        assert np.array_equal(render(World(11, level), tick), played[tick])


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_pictures(knob):
    # Off, the world is the standard one to the byte; on, it is another in most scenes.
    on = World(3, replace(Level(), **{knob: KNOBS[knob]}))
    ticks = range(1, 120, 7)
    changed = sum(not np.array_equal(render(on, tick), render(World(3), tick)) for tick in ticks)
    assert changed >= (3 if knob in ("flashes", "ticks_per_frame") else 8)


def test_a_low_frame_rate_holds_pictures_within_a_scene():
    world = World(4, replace(HARD, ticks_per_frame=3))
    for tick in range(100):
        scene, shown = world.scene(tick), world.shown(tick)
        assert scene.start <= shown <= tick < shown + 3
        assert (shown - scene.start) % 3 == 0
        assert np.array_equal(render(world, tick), render(world, shown))
        assert np.array_equal(foreground(world, tick, (10, 10)), foreground(world, shown, (10, 10)))


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_the_camera_moves_all_but_the_display(seed, tick):
    world = World(seed, replace(PLAIN, distractors=(0, 0), bar=0, flashes=0))
    scene = world.scene(tick)
    right, down = scene.camera(tick)
    assert max(abs(right), abs(down)) <= HARD.reach
    picture, size, reach = render(world, tick), HARD.size, HARD.reach
    still = np.ones((size, size), dtype=bool)
    for sprite in scene.visible(tick):
        (x, y), r = scene.centre(sprite, tick), sprite.radius
        assert (x - right, y - down) == sprite.centre(tick)
        assert r < x < size - r - 1
        assert r < y < size - r - 1
        assert tuple(picture[y, x]) == RGB[sprite.colour_at(tick)]
        still[y - r - 1 : y + r + 2, x - r - 1 : x + r + 2] = False
    left, top = scene.panel
    assert tuple(picture[top, left]) == (12, 24, 16)
    assert tuple(picture[top + PANEL[1] - 1, left + PANEL[0] - 1]) == (12, 24, 16)
    still[top : top + PANEL[1], left : left + PANEL[0]] = False
    behind = scenery(scene.key, world.level)[reach - down :, reach - right :][:size, :size]
    assert np.array_equal(picture[still], behind[still])


def naive_foreground(world: World, tick: int, grid: int) -> np.ndarray:
    """The same by asking of every pixel what is in front there."""
    scene, size = world.scene(tick), world.level.size
    right, down = scene.camera(tick)
    cells = np.zeros((grid, grid), dtype=bool)
    for sprite in scene.sprites:
        if sprite.appears <= tick < sprite.leaves:
            x, y = sprite.centre(tick)
            for v, u in np.argwhere(stencil(sprite.shape, sprite.radius)) - sprite.radius:
                at = (x + u, y + v)
                if scene.bar is None or not scene.bar.low <= at[scene.bar.axis] <= scene.bar.high:
                    cells[(at[1] + down) * grid // size, (at[0] + right) * grid // size] = True
    for v in range(PANEL[1]):
        for u in range(PANEL[0]):
            cells[(scene.panel[1] + v) * grid // size, (scene.panel[0] + u) * grid // size] = True
    return cells


@given(SEEDS, TICKS)
@settings(max_examples=40, deadline=None)
def test_foreground_is_what_can_be_seen(seed, tick):
    world = World(seed, PLAIN)
    shown = foreground(world, tick, (10, 10))
    assert np.array_equal(shown, naive_foreground(world, tick, 10))
    # In exact colours the picture itself tells: a pixel in one of the eight is foreground, whatever else moves about.
    picture = render(world, tick)
    worn = np.zeros((160, 160), dtype=bool)
    for rgb in RGB.values():
        worn |= (picture == np.array(rgb)).all(axis=2)
    assert not (worn.reshape(10, 16, 10, 16).any(axis=(1, 3)) & ~shown).any()
    scene = world.scene(tick)
    for sprite in scene.visible(tick):
        if scene.clear(sprite, tick):
            assert (picture == np.array(RGB[sprite.colour_at(tick)])).all(axis=2).sum() >= 20


@given(SEEDS, TICKS, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_whatever_happens_happens_in_the_open(seed, tick, hold):
    world = World(seed, replace(HARD, ticks_per_frame=hold))
    scene = world.scene(tick)
    shown = [t for t in range(scene.start, scene.stop) if world.shown(t) == t]
    for sprite in scene.sprites:
        there = [t for t in shown if sprite.appears <= t < sprite.leaves]
        assert there
        moments = {there[0]}
        if sprite.leaves < scene.stop:
            moments.add(there[-1])
        worn = [sprite.colour_at(t) for t in there]
        if len(set(worn)) > 1:
            moments |= {there[worn.index(worn[-1]) - 1], there[worn.index(worn[-1])]}
        assert all(scene.bar is None or scene.bar.covers(sprite, t) == 0 for t in moments)
        assert all(scene.clear(sprite, t) for t in moments)
        assert not scene.clear(sprite, sprite.appears - 1)


def test_bars_hide_things_and_give_them_back():
    hidden = back = 0
    for number in range(150):
        scene = World(number, HARD).scene(20)
        for sprite in scene.sprites:
            ticks = [t for t in range(scene.start, scene.stop) if sprite.visible(t)]
            clear = [scene.clear(sprite, t) for t in ticks]
            hidden += not all(clear)
            back += any(not a and b for a, b in pairwise(clear))
            assert clear[0]
    assert hidden > 40
    assert back > 20


def flash_of(world: World, tick: int):
    scene = world.scene(tick)
    return scene, next((s for s in scene.sprites if s.leaves - s.appears < 4), None)


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_a_flash_is_there_for_one_frame(seed, tick):
    world = World(seed, replace(PLAIN, flashes=100, shake=0, pan=0))
    scene, flash = flash_of(world, tick)
    if flash is None:  # no room was found for it
        return
    assert flash.leaves == flash.appears + 1
    assert scene.start < flash.appears < scene.stop - 1
    assert [s.shape for s in scene.sprites].count(flash.shape) == 1
    x, y = flash.centre(flash.appears)
    now, then, later = (render(world, flash.appears + shift)[y, x] for shift in (0, -1, 1))
    assert tuple(now) == RGB[flash.colour]
    assert tuple(then) != RGB[flash.colour] or any(
        s.colour_at(flash.appears - 1) == flash.colour for s in scene.sprites
    )
    assert tuple(later) != RGB[flash.colour] or any(s.colour_at(flash.leaves) == flash.colour for s in scene.sprites)


def test_flashes_are_as_frequent_as_the_level_says():
    found = sum(flash_of(World(seed, HARD), 5)[1] is not None for seed in range(200))
    assert 115 < found < 155
    assert not any(flash_of(World(seed), 5)[1] for seed in range(50))


def test_distractors_and_clutter_look_like_no_sprite():
    assert not set(ODD_RGB.values()) & set(RGB.values())
    for odd in (*ODD_CORNERS, "ring"):
        assert all((stencil(odd, 9) ^ stencil(shape, 9)).sum() > 40 for shape in SHAPES)
    for seed in range(20):
        scene = World(seed, HARD).scene(5)
        assert 1 <= len(scene.distractors) <= 3
        assert all(thing.shape not in SHAPES for thing in scene.distractors)
        behind = scenery(scene.key, HARD).astype(int)
        assert (behind.max(axis=2) - behind.min(axis=2)).max() < 60  # greyish all over
        assert behind.max() < 180


def test_brightness_and_noise_stay_in_their_range():
    for seed in range(10):
        quiet, dim, loud = (World(seed, replace(HARD, drift=d, noise=n)) for d, n in ((0, 0), (32, 0), (0, 10)))
        for tick in (3, 9, 14):
            base = render(quiet, tick).astype(int)
            assert np.abs(render(loud, tick) - base).max() <= 10
            gain = dim.scene(tick).gain(tick)
            assert 256 - 32 <= gain <= 256 + 32
            assert np.array_equal(render(dim, tick), np.minimum(base * gain // 256, 255))
    gains = [World(1, HARD).scene(tick).gain(tick) for tick in range(200)]
    assert max(gains) > 275
    assert min(gains) < 235


def test_grain_is_the_bytes_of_the_words():
    assert grain((5, 6), (3, 5)).tolist() == [
        [int(word) >> 8 * place & 255 for word in words((5, 6), 2) for place in range(8)][5 * row : 5 * row + 5]
        for row in range(3)
    ]
    assert 126 < grain((1,), (200, 200)).mean() < 129


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"shake": -1}, "shake"),
        ({"noise": 64}, "noise"),
        ({"drift": 129}, "drift"),
        ({"flashes": 101}, "flashes"),
        ({"sprites": (4, 2)}, "sprites"),
        ({"clutter": (-1, 2)}, "clutter"),
        ({"ticks_per_frame": 0}, "ticks_per_frame"),
        ({"ticks_per_frame": 5}, "ticks_per_frame"),
        ({"scene_ticks": (4, 9)}, "scene_ticks"),
        ({"size": 64}, "size"),
        ({"pan": 40}, "size"),
    ],
)
def test_impossible_levels_are_refused(knobs, word):
    with pytest.raises(ValueError, match=word):
        replace(Level(), **knobs)
