"""Pictures of what a stream kept, dropped and used again: their pixels, their numbers, their limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contract.streams import tokens_of
from headrace.cli.drawing import DROPPED, EDGE, KEPT, MERGED, draw_fate, draw_work, shape_of, spread
from headrace.cli.explain import Explainer, accounts
from headrace.cli.sheet import draw_sheet, spaced
from headrace.engine.state import same
from headrace.engine.step import apply
from headrace.methods.encoders.stc_cacher import CacherState, Reference, StcCacher
from headrace.types import Frame, Keep, Merge, Replace, Report, Sight
from parity.models import frames, tiny
from unit.tiny import objects, run

PATCHES = (8, 10)
GREY_LEVELS = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def explained(folder: Path, pipeline: str, pictures: list[Frame], **options: int) -> tuple[list[dict], list]:
    """Numbers per frame, and the stream's reports."""
    engine = tiny().engine
    stream, reports, limits = engine.open(pipeline, chunk_frames=options.pop("chunk_frames", 1)), [], options
    with Explainer(folder, note=lambda text: None, **limits).follow(stream, "a test", told=lambda found: None):
        for picture in pictures:
            stream.push(picture)
            reports += [] if stream.report is None else [stream.report]
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()], reports


def sight_of(edit, *, num_frames: int = 2) -> Sight:
    dense = tokens_of(1, 0, grid=(4, 5), dtype=torch.float32, attached=False, num_frames=num_frames)
    shown = tuple(Frame(i, 0.5 * i, torch.zeros(8, 8, 3, dtype=torch.uint8)) for i in dense.frames)
    return Sight(shown, dense, edit, apply(edit, dense), None)


def test_cells_look_as_what_became_of_them() -> None:
    picture = np.random.default_rng(0).integers(40, 256, (96, 120, 3), dtype=np.uint8)
    fate = np.full((4, 5), DROPPED, np.int8)
    fate[1, 2], fate[3, 4] = KEPT, MERGED
    drawn = draw_fate(picture, fate)
    pixel = spread(fate, (96, 120))
    inside = np.zeros((96, 120), bool)
    inside[25:47, 49:71] = True
    assert (drawn[inside] == picture[inside]).all(), "a kept cell is shown as it is"
    edge = (pixel == KEPT) & ~inside
    assert (drawn[edge] == EDGE).all(), "inside a line of one pixel"
    assert edge.sum() == 2 * 24 + 2 * 22
    grey = drawn[pixel == DROPPED].astype(int)
    assert (grey.max(1) - grey.min(1)).max() == 0, "a dropped cell has no colour"
    for gone in (DROPPED, MERGED):
        before, after = (x[pixel == gone] @ GREY_LEVELS for x in (picture, drawn))
        assert (after < 0.5 * before).all(), "and is darker than the same cell kept"
    assert (drawn[pixel == MERGED] != drawn[pixel == DROPPED][: (pixel == MERGED).sum()]).any()


def test_all_kept_is_the_frame_itself() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert (draw_fate(picture, np.full((3, 3), KEPT, np.int8)) == picture).all()
    assert (draw_work(picture, np.ones((3, 3), np.float32)) == picture).all()


def test_the_less_a_patch_was_computed_the_darker_and_bluer() -> None:
    picture = np.full((40, 40, 3), 200, np.uint8)
    drawn = draw_work(picture, np.array([[0.0, 0.5, 1.0]], np.float32)).astype(int)
    left, middle, right = (drawn[0, x] for x in (0, 20, 39))
    assert (left < middle).all()
    assert (middle < right).all()
    assert (right == 200).all()
    assert left[2] > 2 * left[0]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9), st.integers(1, 9))
def test_every_cell_has_its_part_of_the_panel(height: int, width: int, rows: int, columns: int) -> None:
    tall, wide = shape_of(height, width)
    assert min(tall, wide) >= 72
    assert max(tall, wide) <= 640
    pixel = spread(np.arange(rows * columns).reshape(rows, columns), (tall, wide))
    assert pixel.shape == (tall, wide)
    counts = np.bincount(pixel.flatten(), minlength=rows * columns)
    assert counts.min() >= (tall // rows) * (wide // columns)
    assert (np.diff(pixel[:, 0]) >= 0).all()


@given(st.integers(1, 500), st.integers(1, 60))
def test_frames_of_a_sheet_are_even_and_meet_every_beat(num: int, most: int) -> None:
    chosen = spaced(num, most)
    assert len(chosen) == min(num, most)
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < num
    for i, index in enumerate(chosen if num > most else []):
        assert i * num // most <= index < (i + 1) * num // most


@pytest.mark.parametrize("beat", [2, 3, 4, 8])
def test_a_sheet_does_not_beat_with_refreshes(beat: int) -> None:
    for num in range(96, 700):
        share = sum(index % beat == 0 for index in spaced(num, 48)) / 48
        assert 0 < share < 0.3 + 1 / beat, num


def test_accounts_follow_the_edit() -> None:
    kept = torch.tensor([0, 7, 19, 22, 38])
    one, two = accounts(sight_of(Keep(kept)), None, PATCHES)
    assert (one.kept, two.kept) == ((0, 7, 19), (2, 18))
    assert sorted(np.flatnonzero(one.fate == KEPT)) == [0, 7, 19]
    assert (one.fate == DROPPED).sum() == 17
    assert (one.tokens, one.weights, one.share, one.work) == (20, None, None, None)
    groups = torch.arange(40) // 4
    one, two = accounts(sight_of(Merge(groups, torch.ones(40))), None, PATCHES)
    assert one.kept == two.kept == (0, 4, 8, 12, 16)
    assert one.weights == (4.0,) * 5
    assert (two.fate == MERGED).sum() == 15
    other = replace(sight_of(Keep(kept)).dense.take(kept[:3]), grid=(8, 5))
    one, two = accounts(sight_of(Replace(other)), None, PATCHES)
    assert one.fate.shape == (8, 5)
    assert (one.kept, two.kept) == ((0, 7, 19), ())


def test_accounts_lay_patches_out_on_their_grid() -> None:
    updated = torch.zeros(3, 2, 80, dtype=torch.bool)  # 8 x 10 patches for 4 x 5 tokens
    updated[:2, 1, 10:20] = True
    one, two = accounts(sight_of(Keep(torch.arange(40))), updated, PATCHES)
    assert (one.share, two.layers) == (0.0, (0.125, 0.125, 0.0))
    assert two.work.shape == (8, 10)
    assert two.work[1].tolist() == pytest.approx([2 / 3] * 10)
    assert two.work.sum() == pytest.approx(20 / 3)
    odd, _ = accounts(sight_of(Keep(torch.arange(40))), updated[:, :, :79], PATCHES)
    assert odd.work is None
    assert odd.layers == (0.0, 0.0, 0.0)


def test_computed_patches_stand_in_their_layer_and_frame() -> None:
    reference = Reference(*torch.zeros(3, 6, 4))
    rows = torch.tensor([[[0, 1], [2, 3]], [[4, 5], [0, 5]], [[1, 2], [3, 4]]])
    state = CacherState(1, (reference,) * 3, rows)
    found = StcCacher().updated(state, 2)
    assert found.shape == (3, 2, 6)
    assert [[torch.nonzero(x).flatten().tolist() for x in layer] for layer in found] == rows.tolist()
    assert StcCacher().updated(replace(state, rows=None), 4).all()
    assert StcCacher().updated(replace(state, rows=None), 4).shape == (3, 4, 6)


@pytest.mark.parametrize("pipeline", ["dense", "uniform:2", "recent:3+random:0.5", "stc", "streamingllm:24+stc"])
@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_numbers_are_the_reports(folder: Path, pipeline: str, chunk_frames: int) -> None:
    numbers, reports = explained(folder, pipeline, frames(6), chunk_frames=chunk_frames)
    assert [line["frame"] for line in numbers] == list(range(6))
    for report in reports:
        own = [line for line in numbers if line["step"] == list(report.frames)]
        assert sum(line["tokens_kept"] for line in own) == report.tokens_kept
        assert sum(line["tokens_in"] for line in own) == report.tokens_in
    for line in numbers:
        rows, columns = line["grid"]
        assert len(line["kept"]) == line["tokens_kept"]
        assert line["kept"] == sorted(set(line["kept"]))
        assert set(line["kept"]) <= set(range(rows * columns))
        assert (folder / line["picture"]).is_file()
        assert line["tower_computed"] == 1.0 or "stc" in pipeline
    assert sorted(path.name for path in folder.iterdir()) == ["frames", "frames.jsonl", "sheet.png"]
    assert len(list((folder / "frames").iterdir())) == 6


def test_a_static_clip_shows_reuse(folder: Path) -> None:
    still = frames(1)[0]
    numbers, _ = explained(folder, "stc_cacher:0.25", [replace(still, index=i, time_s=i / 2) for i in range(3)])
    assert [line["tower_computed"] for line in numbers] == [1.0, 0.25, 1.0]
    assert set(numbers[1]["tower_computed_per_layer"]) == {0.25}
    full, part = (np.asarray(Image.open(folder / numbers[i]["picture"])).astype(int) for i in (0, 1))
    third = slice(full.shape[1] * 2 // 3 + 10, None)
    assert part[40:-80, third].mean() < 0.7 * full[40:-80, third].mean()
    assert (part[40:-80, : full.shape[1] // 3] == full[40:-80, : full.shape[1] // 3]).all()


def test_drawing_changes_nothing_and_ends(folder: Path) -> None:
    engine, said = tiny().engine, []
    watched, alone = engine.open("stc"), engine.open("stc")
    explainer = Explainer(folder)
    with explainer.follow(watched, "a test", told=said.append):
        for frame in frames(3):
            watched.push(frame)
            alone.push(frame)
    assert watched.ask("w1 w2", max_tokens=5).tokens == alone.ask("w1 w2", max_tokens=5).tokens
    watched.push(frames(1, first=3)[0])
    assert len(explainer.drawn) == 3
    assert said == [
        {
            "folder": str(folder),
            "pictures": 3,
            "left_out": 0,
            "sheet": str(folder / "sheet.png"),
            "numbers": str(folder / "frames.jsonl"),
        }
    ]


def test_what_an_observer_raises_comes_out_after_the_frame_was_taken() -> None:
    stream = tiny().engine.open("dense")

    def observe(sight: Sight, report: Report) -> None:
        raise ZeroDivisionError

    stream.observe(observe)
    with pytest.raises(ZeroDivisionError):
        stream.push(frames(1)[0])
    assert stream.num_frames == 1
    fork = stream.fork()
    fork.push(frames(1, first=1)[0])
    stream.observe(None)
    stream.push(frames(1, first=1)[0])
    assert same(fork.state, stream.state)


def test_a_failure_leaves_a_sheet_of_what_was_drawn(folder: Path) -> None:
    engine, told = tiny().engine, []
    stream = engine.open("dense")

    def play() -> None:
        with Explainer(folder).follow(stream, "a test", told=told.append):
            stream.push(frames(1)[0])
            stream.push("no picture")

    with pytest.raises(ValueError, match="push: takes a Frame"):
        play()
    assert told[0]["pictures"] == 1
    assert Image.open(folder / "sheet.png").width > 100


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (300, 2), (1, 1)])
@pytest.mark.parametrize("num", [1, 5])
def test_odd_sizes(folder: Path, size: tuple[int, int], num: int) -> None:
    numbers, _ = explained(folder, "stc", frames(num, size=size))
    assert len(numbers) == num
    pages = {Image.open(path).size for path in (folder / "frames").iterdir()}
    assert len(pages) <= 2, "pages of a stream have one size, but where all was computed"


def test_a_long_stream_has_a_sheet_of_some_frames(folder: Path) -> None:
    engine = tiny().engine
    stream, explainer = engine.open("stc"), Explainer(folder)
    with explainer.follow(stream, "a test", told=lambda found: None):
        for frame in frames(6):
            stream.push(frame)
    few, all_of_them = (draw_sheet(explainer.drawn * 8, "a", "b", fates=[KEPT], most=most) for most in (3, 48))
    assert few.height < all_of_them.height
    assert few.width * few.height < 0.2 * all_of_them.width * all_of_them.height
    assert Image.open(folder / "sheet.png").height > 200


def test_limits(folder: Path) -> None:
    engine, notes = tiny().engine, []
    stream, explainer = engine.open("dense"), Explainer(folder, every=2, most=3, note=notes.append)
    with explainer.follow(stream, "a test", told=lambda found: notes.append(found["left_out"])):
        for frame in frames(11):
            stream.push(frame)
    assert sorted(path.name for path in (folder / "frames").iterdir()) == ["000000.png", "000002.png", "000004.png"]
    assert len(notes) == 2, "told once that there is no more room"
    assert "3 frames are drawn" in notes[0]
    assert notes[1] == 3
    with pytest.raises(ValueError, match="--explain-every: must be at least 1, not 0"):
        Explainer(folder, every=0)
    with pytest.raises(ValueError, match="--explain-most: must be at least 1, not -1"):
        Explainer(folder, most=-1)


def test_an_earlier_explanation_is_replaced_and_nothing_else(folder: Path) -> None:
    explained(folder, "dense", frames(5))
    numbers, _ = explained(folder, "dense", frames(2))
    assert len(numbers) == len(list((folder / "frames").iterdir())) == 2
    (folder / "frames" / "holiday.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds frames; give a new or empty folder"):
        Explainer(folder)
    (folder / "frames" / "holiday.png").unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt; give a new or empty folder"):
        Explainer(folder)
    with pytest.raises(ValueError, match="cannot be written to"):
        Explainer(folder / "notes.txt")
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_command_draws_and_says_where(folder: Path) -> None:
    args = ("ask", "world:7,seconds=3", "what digit is on the display", "-p", "stc", "--explain", str(folder))
    code, stdout, stderr = run(*args, "--json", "--explain-every", "2")
    assert (code, stderr) == (0, "")
    found = objects(stdout)
    told = next(line for line in found if line["event"] == "explained")
    assert told["pictures"] == 3
    numbers = [json.loads(line) for line in Path(told["numbers"]).read_text().splitlines()]
    steps = {line["frames"][0]: line["tokens_kept"] for line in found if line["event"] == "step"}
    assert {line["frame"]: line["tokens_kept"] for line in numbers} == {i: steps[i] for i in (0, 2, 4)}
    code, stdout, _ = run(*args)
    assert code == 0
    assert f"explained 6 frames in {folder}; look first at {told['sheet']}" in stdout


def test_the_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    ask = ("ask", "world:7,seconds=2", "hi")
    for args, want in (
        (("--explain", str(tmp_path)), "holds mine; give a new or empty folder"),
        (("--explain", str(tmp_path / "mine")), "cannot be written to"),
        (("--explain-most", "3"), "--explain-most: goes with --explain FOLDER, which is missing"),
        (("--explain", str(tmp_path / "new"), "--explain-every", "0"), "--explain-every: must be at least 1, not 0"),
    ):
        code, stdout, stderr = run(*ask, *args)
        assert (code, stdout) == (2, "")
        assert len(stderr.splitlines()) == 1
        assert want in stderr


@pytest.mark.parametrize("pipeline", ["dense", "stc", "recent:3+uniform:2"])
def test_frames_that_wait_for_their_step_are_drawn_at_the_end(folder: Path, pipeline: str) -> None:
    """As they are when their step comes: the last four of seven, and all where none has come."""
    engine = tiny().engine
    stream = engine.open(pipeline, chunk_frames=3)
    for frame in frames(5):
        stream.push(frame)
    before = stream.fork()
    with Explainer(folder).follow(stream, "a test", told=lambda found: None):
        pass
    assert same(stream.state, before.state)
    waited = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["step"]) for line in waited] == [(3, [3, 4]), (4, [3, 4])]
    with Explainer(folder, goes_on=True).follow(stream, "a test", told=lambda found: None):
        stream.push(frames(1, first=5)[0])
    lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["step"]) for line in lines] == [(i, [3, 4, 5]) for i in (3, 4, 5)], "each one once"


def test_the_command_draws_a_clip_that_is_shorter_than_a_step(folder: Path) -> None:
    code, stdout, _ = run("ask", "world:7,seconds=2", "hi", "--chunk-frames", "16", "--explain", str(folder), "--json")
    told = next(line for line in objects(stdout) if line["event"] == "explained")
    assert (code, told["pictures"]) == (0, 4)
    assert told["sheet"]


@pytest.mark.parametrize("fails", ["000002.png", "sheet.png"])
def test_a_full_disk_ends_the_drawing_and_not_the_watch(folder: Path, monkeypatch, fails: str) -> None:
    save = Image.Image.save

    def full(self: Image.Image, path: Path, *args: object, **values: object) -> None:
        if Path(path).name == fails:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, path, *args, **values)

    monkeypatch.setattr(Image.Image, "save", full)
    code, stdout, stderr = run("ask", "world:7,seconds=3", "hi", "--explain", str(folder), "--json")
    why = f"--explain: {folder} cannot be written to (No space left on device)"
    assert (code, stderr.splitlines()) == (
        2,
        [f"headrace: {why}; the stream goes on, and nothing more is drawn", f"headrace: error: {why}"],
    )
    found = objects(stdout)
    assert [x["event"] for x in found] == ["start", *6 * ["step"], "explained", "answer", "summary"]
    told = found[-3]
    assert (told["pictures"], bool(told["sheet"])) == ((2, True) if fails == "000002.png" else (6, False))
    assert (folder / "sheet.png").exists() is bool(told["sheet"])
    drawn = sorted(path.name for path in (folder / "frames").iterdir())
    assert drawn == [f"{i:06d}.png" for i in range(told["pictures"])], "no half picture is left"
    assert len((folder / "frames.jsonl").read_text().splitlines()) == told["pictures"]
