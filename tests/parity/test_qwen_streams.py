"""Streams of Qwen2.5-VL and Qwen3-VL: positions, pairs of frames, size of pictures, every method on them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import headrace
from headrace import registry
from headrace.backbones import ModelError, plain
from headrace.cache import asking, recall
from headrace.engine import Engine, Governor, MemoryBudgetError
from headrace.engine.state import same
from headrace.ops.rope import cos_sin
from headrace.types import Clip, Cursor, Frame, Kind, View
from parity.families import kin, write
from parity.models import QUESTION, Recorder, frames
from unit.tiny import objects, run

QWEN = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
WIDE = (30, 44)


def spaced(num: int, apart: float, *, size: tuple[int, int] = WIDE) -> list[Frame]:
    return [replace(frame, time_s=apart * frame.index) for frame in frames(num, size=size)]


def streamed(stream: Any, shown: list[Frame]) -> Any:
    for frame in shown:
        stream.push(frame)
    return stream


def placed(family: str, shown: list[Frame], *, prompt: str = "library") -> tuple[torch.Tensor, Recorder]:
    """The (3, T) ids of all rows of a stream and a question."""
    recorder = Recorder(kin(family).engine.backbone)
    streamed(Engine(recorder).open("full", prompt=prompt), shown).ask(QUESTION, max_tokens=1)
    return torch.cat([segment.ids for segment in recorder.segments], dim=1), recorder


@QWEN
@pytest.mark.parametrize("apart", [0.04, 0.1, 0.3, 1 / 3, 0.7, 2.0])
def test_ids_are_the_librarys_at_every_rate(family, apart):
    """Also where fp32 and fp64 round down to different numbers."""
    shown = spaced(24, apart)
    got, _ = placed(family, shown)
    model, inputs = kin(family), kin(family).inputs((QUESTION, shown))
    names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    given = {name: inputs[name] for name in names if name in inputs}
    want, _ = model.model.model.get_rope_index(inputs["ids"], **given)
    assert torch.equal(got, want[:, 0])


def test_fp32_counts_steps_and_seconds_count_the_rest():
    """An even step is multiplied as transformers does; one that is early or late stands at its second."""
    backbone = kin("qwen2_5_vl").engine.backbone
    for apart in (0.1, 0.7, 1.7, 2.3):
        interval = 2 * torch.tensor(apart, dtype=torch.float32)
        for step in range(0, 3000, 7):
            want = int(torch.tensor(step, dtype=torch.float32) * interval)
            assert backbone._second(5.0 + step * apart, 5.0, apart) == want
    assert backbone._second(5.0 + 3.26, 5.0, 0.8) == 6
    assert backbone._second(4.9, 5.0, 0.8) == 0


def test_text_after_a_clip_stands_behind_all_of_it_unless_asked_otherwise():
    """Trained: one behind the largest id, which is the time's; library: behind the grid, as if no time had passed."""
    shown = spaced(8, 1.0)
    for prompt in ("trained", "library"):
        ids, recorder = placed("qwen2_5_vl", shown, prompt=prompt)
        kinds = torch.cat([segment.kind for segment in recorder.segments])
        start = int((kinds == Kind.PREFIX).sum())
        visual, text = ids[:, kinds == Kind.VISUAL], ids[:, kinds == Kind.TEXT]
        assert visual.amin(1).tolist() == [start] * 3
        assert visual.amax(1).tolist() == [start + 12, start + 1, start + 2]
        assert text[:, 0].tolist() == [start + (13 if prompt == "trained" else 3)] * 3
        assert bool((text.diff(dim=1) == 1).all())
    assert placed("qwen2_5_vl", shown)[0].shape == ids.shape


def test_a_clip_goes_on_until_text_ends_it_and_the_next_counts_from_its_own_start():
    recorder = Recorder(kin("qwen2_5_vl").engine.backbone)
    stream = streamed(Engine(recorder).open("full"), spaced(4, 1.0))
    assert stream.state.cursor.clip == Clip(0.0, 2.0, 5)
    before = stream.state.cursor
    stream.ask(QUESTION, max_tokens=2)
    assert stream.state.cursor == before, "a question leaves the clip open"
    stream.ask(QUESTION, max_tokens=2, remember=True)
    cursor = stream.state.cursor
    assert cursor.clip is None
    streamed(stream, [replace(frame, time_s=frame.time_s + 50) for frame in frames(6, first=4, size=WIDE)])
    assert stream.state.cursor.clip == Clip(54.0, 2.0, 9)
    last = recorder.segments[-1]
    reopened = int((recorder.segments[-3].kind == Kind.MARKER).sum())
    assert reopened > 0
    assert stream.state.cursor.next == cursor.next + reopened
    assert last.ids[0].tolist() == [cursor.next + reopened + 8] * 6


def test_qwen3_writes_one_pair_of_delimiters_or_both():
    """What stands around a video of two steps, as the authors' code writes it and as transformers does."""
    model, shown = kin("qwen3_vl"), spaced(3, 1.0, size=(28, 14))
    text = {}
    for prompt in ("trained", "library"):
        _, recorder = placed("qwen3_vl", shown, prompt=prompt)
        tokens = torch.cat([segment.tokens for segment in recorder.segments])
        text[prompt] = model.tokenizer.decode([t for t in tokens.tolist() if t >= 0])
    steps = "<0 5 seconds><|vision_start|><|vision_end|> <2 0 seconds><|vision_start|><|vision_end|>"
    both = f"<|vision_start|> {steps}<|vision_end|>"
    squeezed = {prompt: found.replace(" ", "") for prompt, found in text.items()}
    assert steps.replace(" ", "") in squeezed["trained"]
    assert both.replace(" ", "") in squeezed["library"]
    assert squeezed["library"].replace(both.replace(" ", ""), steps.replace(" ", "")) == squeezed["trained"]


@QWEN
def test_an_odd_frame_is_shown_twice_to_a_question_and_waits_for_its_partner(family):
    """Asking in between changes nothing; the answer is that of a clip that ends there."""
    model, shown = kin(family), frames(4, size=WIDE)
    stream, quiet = model.open(), model.open()
    for i, frame in enumerate(shown):
        stream.push(frame)
        quiet.push(frame)
        inputs = model.inputs((QUESTION, shown[: i + 1]))
        assert list(stream.ask(QUESTION, max_tokens=5).tokens) == model.generate(inputs, 5)
        assert len(stream.state.pending) == (i + 1) % 2
        assert same(stream.state, quiet.state)
    assert stream.report.tokens_in == 6


@QWEN
def test_deepstack_follows_what_a_compressor_keeps(family):
    """Kept tokens keep their ids and their own features: the same rows alone in the plain decoder say the same."""
    model, shown = kin(family), frames(4, size=WIDE)
    recorder = Recorder(model.engine.backbone)
    stream = streamed(model.open("full+uniform:2", backbone=recorder), shown)
    got = stream.ask(QUESTION, max_tokens=1)
    assert got.frames_seen == 4
    embeds, ids = (torch.cat([getattr(s, x) for s in recorder.segments], dim=d) for x, d in (("embeds", 0), ("ids", 1)))
    visual = torch.cat([segment.kind for segment in recorder.segments]) == Kind.VISUAL
    assert int(visual.sum()) == 4
    deep = [segment.deep for segment in recorder.segments if segment.deep is not None]
    more = {}
    if family == "qwen3_vl":
        more = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": list(torch.cat(deep, dim=1))}
    decoder = model.model.model.language_model
    with torch.no_grad():
        hidden = decoder(inputs_embeds=embeds[None], position_ids=ids[:, None], use_cache=False, **more)[0][0]
        want = model.model.lm_head(hidden)
    assert float((recorder.logits_of_all - want).abs().max()) <= 1e-4
    dense, _ = placed(family, shown)
    gone = [i for i, column in enumerate(dense.T.tolist()) if column not in ids.T.tolist()]
    assert len(gone) == 12 - 4, "what is kept stands where it stood"
    if deep:
        with torch.no_grad():
            other = decoder(inputs_embeds=embeds[None], position_ids=ids[:, None], use_cache=False)[0][0]
        assert float((model.model.lm_head(other) - want).abs().max()) > 1e-2, "deepstack matters here"


def test_flash_memory_stands_where_its_card_says():
    """Full units at (unit, row, column) from where the first begins, then small ones, behind as many ids as rows."""
    recorder = Recorder(kin("qwen2_5_vl").engine.backbone)
    streamed(Engine(recorder).open("flash_vstream"), spaced(8, 3.0)).ask(QUESTION, max_tokens=1)
    ids, kinds = (torch.cat([getattr(s, x) for s in recorder.segments], -1) for x in ("ids", "kind"))
    visual = ids[:, kinds == Kind.VISUAL].T.tolist()
    (start, *_), full, small = visual[0], 4 * 6, 4 * 2
    assert len(visual) == full + small
    assert visual[:full] == [[start + t, start + r, start + c] for t in range(4) for r in range(2) for c in range(3)]
    first = start + full
    assert visual[full:] == [[first + t, first, first + c] for t in range(4) for c in range(2)]


MEMORIES = [entry.name for entry in registry.entries().values() if entry.role == "memory"]
THINNED = ["stc", "stc_adaptive+streamingllm:40", "recent:2+random:0.5", "streamingllm:24+uniform:3"]


@QWEN
@pytest.mark.parametrize("pipeline", [*THINNED, *(f"stc_cacher+{name}" for name in MEMORIES)])
def test_methods_of_every_role_save_fork_and_go_on(family, pipeline, tmp_path):
    """Forked, saved and resumed streams say what the stream itself says, and keep their size."""
    engine, shown = kin(family).engine, frames(9, size=(52, 28))
    stream = streamed(engine.open(pipeline, max_pixels=900), shown[:5])
    assert stream.spec.grid[0] * stream.spec.grid[1] * 196 <= 900
    stream.save(tmp_path)
    others = [stream.fork(), engine.resume(tmp_path)]
    streamed(stream, shown[5:])
    want = stream.ask(QUESTION, max_tokens=4, remember=True)
    for other in others:
        assert other.state.view == stream.state.view == View(900, stream.state.view.size)
        assert other.spec.grid == stream.spec.grid
        streamed(other, shown[5:])
        assert other.ask(QUESTION, max_tokens=4, remember=True).tokens == want.tokens
        assert same(other.state.encoder, stream.state.encoder)
        assert same(other.state.cursor, stream.state.cursor)
    bound = stream.pipeline.memory.bound_bytes(stream.spec)
    assert bound is None or stream.pipeline.memory.num_bytes(stream.state.memory) <= bound


@QWEN
def test_the_first_frame_fixes_the_size_and_bounds_hold_before_it(family):
    engine = kin(family).engine
    stream, other = engine.open("recent:3", max_pixels=4000), engine.open("recent:3")
    open_grid, bound = stream.spec.grid, stream.pipeline.memory.bound_bytes(stream.spec)
    streamed(stream, frames(8, size=(90, 30)))
    streamed(other, frames(8, size=WIDE))
    rows, cols = stream.spec.grid
    assert rows > cols
    assert rows * cols <= open_grid[0] * open_grid[1]
    assert stream.pipeline.memory.num_bytes(stream.state.memory) <= bound
    assert other.spec.grid == (2, 3)
    assert engine.backbone.spec.patch_grid == (0, 0), "streams leave the shared model alone"
    before = stream.state.view
    streamed(stream, frames(2, first=8, size=(28, 90)))
    assert stream.state.view == before
    assert stream.report.tokens_in == rows * cols
    with pytest.raises(ValueError, match="max_pixels: 100 is less than one visual token, 196"):
        engine.open("full", max_pixels=100)
    with pytest.raises(ValueError, match="frame: is 2 x 900 pixels"):
        engine.open("full").push(torch.zeros(900, 2, 3, dtype=torch.uint8))


@QWEN
def test_the_most_pixels_of_a_file_count_where_they_are_meant_for_a_frame(family, tmp_path):
    """Qwen2.5-VL's; Qwen3-VL's are those of a whole video."""
    write(family, tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    size = {"shortest_edge": 196, "longest_edge": 20 * 196}
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": size}))
    backbone = headrace.load(str(tmp_path), dtype="float32", device="cpu").backbone
    (frame,) = frames(1, size=(140, 140))
    sizes = {most: backbone.choose(View(most), frame).size for most in (None, 10 * 196, 50 * 196)}
    own = family == "qwen2_5_vl"
    assert sizes == {None: (56, 56) if own else (140, 140), 1960: (42, 42), 9800: (56, 56) if own else (98, 98)}
    assert backbone.at(View()).spec.grid[1] <= (63 if own else 163)
    kept = View(size=(140, 140))  # of a stream that was saved before: it goes on at its size
    assert backbone.choose(kept, frame) == kept
    assert backbone.at(kept).spec.grid == (10, 10)


def test_a_window_smaller_than_a_token_is_refused(tmp_path):
    write("qwen2_5_vl", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["window_size"] = 13
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"window_size: 13 pixels are less than one visual token, 14$"):
        headrace.load(str(tmp_path), dtype="float32", device="cpu")


def test_a_first_frame_that_fails_leaves_the_size_open():
    engine = kin("qwen2_5_vl").engine
    stream = engine.open("full", memory_mb=0.05)
    frame = Frame(0, 0.0, torch.zeros(900, 900, 3, dtype=torch.uint8))
    with pytest.raises(MemoryBudgetError):
        streamed(stream, [frame, replace(frame, index=1)])
    fresh = engine.open("full", memory_mb=0.05)
    with pytest.raises(MemoryBudgetError):
        streamed(fresh, [frame, replace(frame, index=1, time_s=1.0)])
    roomy = engine.open("full", chunk_frames=1)
    with pytest.raises(ValueError, match="times as long"):
        roomy.push(torch.zeros(900, 2, 3, dtype=torch.uint8))
    assert roomy.num_frames == 0
    streamed(roomy, frames(2, size=WIDE))
    assert roomy.spec.grid == (2, 3)


@QWEN
def test_merged_tokens_take_their_deepstack_features_along(family):
    _, backbone = kin(family), kin(family).looking(frames(1, size=WIDE)[0])
    shown = frames(2, size=WIDE)
    tokens = backbone.vision(backbone.pixels(shown), shown)
    merged = tokens.merge(torch.tensor([0, 0, 1, 1, 2, 2]), torch.ones(6))
    segment = backbone.wrap(merged, Cursor())
    assert int((segment.kind == Kind.VISUAL).sum()) == 3
    if family == "qwen3_vl":
        assert torch.allclose(segment.deep, (tokens.deep[:, ::2] + tokens.deep[:, 1::2]) / 2, atol=1e-6)
    else:
        assert segment.deep is None


def test_the_command_line_fixes_a_size_and_goes_on_with_it(tmp_path):
    plain.save(*plain.tiny("qwen2_5_vl", ["what"], gain=10.0), tmp_path / "model")
    common = ["--model", str(tmp_path / "model"), "--max-tokens", "2", "--json"]
    first = ["ask", "world:7,seconds=2", "what", *common, "--state", str(tmp_path / "stream")]
    code, stdout, stderr = run(*first, "--max-pixels", "2000", "--prompt", "library")
    assert code == 0, stderr
    assert {line["tokens_in"] for line in objects(stdout) if line["event"] == "step"} == {9}
    again = ["ask", "world:7,seconds=3", "what", *common, "--resume", str(tmp_path / "stream")]
    code, stdout, stderr = run(*again, "--max-pixels", "900")
    assert code != 0
    assert "leave out --max-pixels and --prompt" in stderr
    code, stdout, stderr = run(*again)
    assert code == 0, stderr
    code, _, stderr = run("ask", "world:7,seconds=2", "what", "--max-pixels", "900")
    assert code != 0
    assert "max_pixels: this model sees every frame at 128 x 128 pixels; leave it out" in stderr


@QWEN
def test_a_disk_outlives_the_first_frame_which_fixes_the_size(family, tmp_path):
    engine, settings = kin(family).engine, ("memory.ram_blocks=2",)
    stream = streamed(engine.open("rekv:4", settings=settings, disk=tmp_path / "disk"), spaced(12, 1.0))
    assert len(stream.state.memory.shelf) == 6
    engine.open("rekv:4", settings=settings).save(tmp_path / "saved")
    stream = engine.resume(tmp_path / "saved", disk=tmp_path / "disk").fork()
    assert len(streamed(stream, spaced(12, 1.0)).state.memory.shelf) == 6


@QWEN
@pytest.mark.parametrize(
    "name",
    ["rekv:4@memory.window=64", "livevlm:64@memory.frames=4@memory.advance=2", "streamingvlm:4", "video_xl_2:2"],
)
def test_a_stream_that_is_resumed_goes_on_with_the_size_it_had(family, name, tmp_path):
    """Also where a memory reads the grid, and a remembered turn is longer than a frame."""
    shown, stream = spaced(16, 1.0), kin(family).engine.open(name)
    streamed(stream, shown[:6]).save(tmp_path)
    both = [stream, kin(family).engine.resume(tmp_path)]
    for one in both:
        one.ask(" ".join(f"w{i}" for i in range(40)), max_tokens=2, remember=True)
    answers = [streamed(one, shown[6:]).ask(QUESTION, max_tokens=6) for one in both]
    assert answers[0].tokens == answers[1].tokens
    assert same(both[0].state, both[1].state)


@pytest.mark.parametrize("told", [(), (10, 50, 100, 200)])
def test_what_rekv_looks_up_of_a_long_clip_stands_close_together(told, monkeypatch):
    """Its frames share rows and columns; their times close up, and the question stands behind all of them."""
    places = []

    def noted(rope, place, **settings):
        places.append(place)
        return cos_sin(rope, place, **settings)

    stream = streamed(kin("qwen2_5_vl").engine.open("rekv:8", settings=("memory.window=64",)), spaced(240, 2.0))
    for module in (recall, asking):
        monkeypatch.setattr(module, "cos_sin", noted)
    stream.ask(QUESTION, max_tokens=1, frames=told)
    past, words = places[0], places[1]
    assert stream.state.cursor.clip.reach > 400
    assert int(past.max()) < past.shape[1]
    assert words.amin(0).tolist() == words.amax(0).tolist(), "words stand alike on all axes"
    assert int(words.min()) == int(past.max()) + 1
    if told:
        first = past.shape[1] - 4 * 6  # of 2 x 3 tokens each
        seconds, rows = past[0, first::6], past[1, first::6]
        assert (seconds - seconds[0]).tolist() == [0, 1, 2, 3]
        assert rows.unique().tolist() == [int(seconds[0])]


@QWEN
def test_a_governor_counts_in_the_grid_that_the_first_frame_fixes(family):
    engine, shown = kin(family).engine, spaced(12, 1.0)
    stream = engine.open("recent:2+uniform:6")
    governor = Governor(stream, target_ms=1e-6, max_skip=0)
    for frame in shown[:2]:
        governor.push(frame)
    known = Governor(streamed(engine.open("recent:2+uniform:6"), shown[:2]), target_ms=1e-6, max_skip=0)
    assert [x.values for x in governor._settings] == [x.values for x in known._settings]
    assert governor.can_turn
    for frame in shown[2:]:
        governor.push(frame)
    assert governor.summary()["changes"] > 0
    governor.close()
    assert stream.pipeline.compressor.keep == 6
