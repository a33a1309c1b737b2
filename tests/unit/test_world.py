"""The world: the same on every machine, the same from any tick, true to what it shows."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.video.world import LEVELS, World, frames, open_world, render
from headrace.video.world.generator import Draw, fold, mix, noise
from headrace.video.world.render import CORNERS, RGB, stencil
from headrace.video.world.script import COLOURS, PANEL, SHAPES, bounce
from headrace.video.world.sprite import Sprite

GOLDEN = [
    (0, 0, "42b51f2df2f86161"),
    (7, 14, "5cf3bd7e4ab17030"),
    (7, 99999, "aa9d5f659525497b"),
    (123456789, 31, "689b536fe8b0c65c"),
    (1099511627781, 1000, "f64e57ebbfabdd9e"),
]
SEEDS, TICKS = st.integers(0, 2**41), st.integers(0, 100_000)


def test_generator_is_splitmix64():
    # The published first outputs of SplitMix64 from state 1234567.
    step, state, out = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + step) & (2**64 - 1)
        out.append(mix(state))
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_generator_draws_evenly_and_repeats():
    draws = [Draw(3, 4).below(7), Draw(3, 4).below(7)]
    assert draws[0] == draws[1]
    draw = Draw(1)
    counts = np.bincount([draw.below(5) for _ in range(5000)])
    assert counts.min() > 900
    assert sorted(Draw(2).shuffled(range(9))) == list(range(9))
    assert fold((1, 2)) != fold((2, 1))
    assert 120 < noise((1,), 64, 64).mean() < 135


@pytest.mark.parametrize(("seed", "tick", "digest"), GOLDEN)
def test_pixels_are_golden(seed, tick, digest):
    assert hashlib.sha256(render(World(seed), tick).tobytes()).hexdigest()[:16] == digest


def test_any_tick_can_be_had_without_the_ones_before():
    played = [frame.image for frame in frames(World(11), 0, 60)]
    for tick in (59, 3, 31):
        assert np.array_equal(render(World(11), tick), played[tick].numpy())


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_scenes_tile_time(seed, tick):
    world = World(seed)
    scene = world.scene(tick)
    low, high = world.level.scene_ticks
    assert scene.start <= tick < scene.stop
    assert low <= scene.stop - scene.start <= high
    assert world.scene(scene.stop).start == scene.stop
    assert world.scene(scene.stop - 1) == scene


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_sprites_stay_on_the_picture_and_apart(seed, tick):
    world = World(seed)
    scene = world.scene(tick)
    size = world.level.size
    boxes = [(*s.centre(tick), s.radius) for s in scene.visible(tick)]
    left, top = scene.panel
    boxes.append((left + PANEL[0] // 2, top + PANEL[1] // 2, PANEL[0] // 2))
    for i, (x, y, r) in enumerate(boxes):
        assert r < x < size - r
        assert r < y < size - r
        for u, v, q in boxes[i + 1 :]:
            assert max(abs(x - u), abs(y - v)) >= r + q
    shapes = [s.shape for s in scene.sprites]
    assert len(set(shapes)) == len(shapes)


@given(SEEDS, TICKS)
@settings(max_examples=60, deadline=None)
def test_pictures_show_what_the_script_says(seed, tick):
    world = World(seed)
    scene, picture = world.scene(tick), render(world, tick)
    shown = scene.visible(tick)
    for sprite in shown:
        x, y = sprite.centre(tick)
        assert tuple(picture[y, x]) == RGB[sprite.colour_at(tick)]
    for name, rgb in RGB.items():
        pixels = int((picture == np.array(rgb)).all(axis=2).sum())
        worn = sum(s.colour_at(tick) == name for s in shown)
        assert (pixels >= 60 * worn) if worn else pixels == 0


@given(st.integers(-500, 500), st.integers(0, 60), st.integers(61, 120))
def test_bounce_stays_inside_and_keeps_what_is_inside(value, low, high):
    inside = bounce(value, low, high)
    assert low <= inside <= high
    if low <= value <= high:
        assert inside == value


@given(SEEDS, TICKS)
@settings(max_examples=40, deadline=None)
def test_heading_is_the_way_the_centre_goes(seed, tick):
    for sprite in World(seed).scene(tick).visible(tick):
        way = sprite.heading(tick)
        if tick == sprite.appears:
            assert way is None
            continue
        (x0, y0), (x1, y1) = sprite.centre(tick - 1), sprite.centre(tick)
        if way is not None:
            moved = {"left": x1 < x0, "right": x1 > x0, "up": y1 < y0, "down": y1 > y0, "still": (x0, y0) == (x1, y1)}
            assert moved[way]


def test_things_happen():
    scenes = {World(5).scene(tick) for tick in range(0, 3000, 12)}
    sprites = [s for scene in scenes for s in scene.sprites]
    assert {s.shape for s in sprites} == set(SHAPES)
    assert {s.colour for s in sprites} == set(COLOURS)
    for share in (
        sum(s.changes < s.leaves for s in sprites) / len(sprites),
        sum(any(s.leaves < scene.stop for s in scene.sprites) for scene in scenes) / len(scenes),
        sum(any(s.appears > scene.start for s in scene.sprites) for scene in scenes) / len(scenes),
        sum(len(scene.digits) > 1 for scene in scenes) / len(scenes),
    ):
        assert 0.2 < share <= 1


def test_shapes_are_told_apart():
    for shape in SHAPES:
        mask = stencil(shape, 12)
        assert mask.shape == (25, 25)
        assert mask[12, 12]
        for other in CORNERS:
            if other != shape:
                assert (mask ^ stencil(other, 12)).sum() > 60


def test_a_negative_tick_is_refused():
    with pytest.raises(ValueError, match="negative"):
        World(1).scene(-1)


def test_open_world_reads_its_text():
    source = open_world("7,seconds=2,start=1.5")
    found = list(source)
    assert [frame.time_s for frame in found] == [1.5, 2.0, 2.5, 3.0]
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    assert (source.fps, source.width, source.height, source.world) == (2.0, 128, 128, World(7))
    assert open_world("0").stop is None
    assert open_world("3, level = standard").world.level == LEVELS["standard"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "seed"),
        ("seven", "seed"),
        ("-1", "seed"),
        ("1.5", "seed"),
        ("9" * 40, "seed"),
        ("7,second=2", "second=2"),
        ("7,seconds", "seconds"),
        ("7,seconds=0", "more than 0"),
        ("7,seconds=1/0", "multiple"),
        ("7,seconds=0.3", "multiple"),
        ("7,seconds=-2", "multiple"),
        ("7,seconds=nan", "multiple"),
        ("7,start=x", "multiple"),
        ("7,level=soft", "standard"),
    ],
)
def test_open_world_refuses_bad_text(text, word):
    with pytest.raises(ValueError, match="world:") as caught:
        open_world(text)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 9), st.integers(3, 12), st.sampled_from([-3, -2, -1, 0, 1, 2, 3]), st.booleans())
def test_a_heading_is_the_way_a_thing_goes_and_a_bounce_has_none(at: int, room: int, speed: int, across: bool):
    """Also where the step that bounced is as long as a single pixel."""
    low, high = 20, 20 + room
    start = (low + at % (room + 1), low + at % (room + 1))
    velocity = (speed, 0) if across else (0, speed)
    kept = {"appears": 0, "changes": 99, "leaves": 99, "radius": 5, "low": low, "high": high}
    thing = Sprite("cross", "red", "red", start=start, velocity=velocity, **kept)
    axis = 0 if across else 1
    names = ("left", "right") if across else ("up", "down")
    for tick in range(1, 40):
        step = thing.centre(tick)[axis] - thing.centre(tick - 1)[axis]
        whole = abs(step) == abs(speed)
        expected = "still" if not speed else names[step > 0] if whole else None
        assert thing.heading(tick) == expected
