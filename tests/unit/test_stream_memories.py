"""Memories at work in a stream of a tiny model: thinned frames, remembered turns, waiting frames, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import headrace
from headrace import registry
from headrace.engine import Engine, Pipeline
from headrace.engine.state import same
from headrace.types import Kind
from unit.tiny import save_tiny

NAMES = ["streamingvlm:2", "flash_vstream:3", "flash_vstream:2@memory.order=time", "videoscan:4"]
LOOK_UP = ["rekv:2@memory.window=20", "infllm:2@memory.window=20", "video_xl_2:1@memory.block=1@memory.previous=1"]
LOOK_UP += ["livevlm:9@memory.frames=2@memory.advance=1@memory.page=2"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return headrace.load(save_tiny(tmp_path_factory.mktemp("tiny")))


def opened(engine: Any, name: str, **values: Any) -> Any:
    return engine.open(Pipeline.parse(f"{name}+uniform:0.5", **values))


def picture(i: int) -> torch.Tensor:
    return torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)


@pytest.mark.parametrize(
    "name", ["streamingvlm", "flash_vstream", "videoscan", "rekv", "infllm", "livevlm", "video_xl_2"]
)
def test_presets_parse_alone_and_with_stc(name: str) -> None:
    assert registry.name_of(Pipeline.parse(name).memory) == name
    both = Pipeline.parse(f"{name}+stc")
    assert registry.name_of(both.memory) == name
    assert registry.name_of(both.compressor) == "stc_pruner"


@pytest.mark.parametrize("name", [*NAMES, *LOOK_UP])
def test_a_saved_stream_goes_on_as_if_nothing_had_happened(engine: Any, name: str, tmp_path: Path) -> None:
    stream = opened(engine, name)
    for i in range(5):
        stream.push(picture(i))
    stream.ask("what is there now", max_tokens=3, remember=True)
    stream.push(picture(5))
    stream.save(tmp_path / "saved")
    other = engine.resume(tmp_path / "saved")
    for s in (stream, other):
        for i in range(6, 11):
            s.push(picture(i))
        s.ask("what is there", max_tokens=2, remember=True)
        s.push(picture(11))
    found = [s.ask("what was there first", max_tokens=4, evidence=3) for s in (stream, other)]
    assert found[0].tokens == found[1].tokens
    assert found[0].evidence == found[1].evidence
    assert found[0].evidence, "an answer names the moments it rests on"
    assert 0 <= min(m.time_s for m in found[0].evidence) <= max(m.time_s for m in found[0].evidence) <= 11


@pytest.mark.parametrize("name", NAMES)
def test_a_waiting_frame_is_seen_as_if_its_step_were_full(engine: Any, name: str) -> None:
    """A stream of steps of two frames, asked after five, sees the fifth; its state does not change."""
    stream, other = (opened(engine, name, chunk_frames=2) for _ in range(2))
    for i in range(5):
        stream.push(picture(i))
        other.push(picture(i if i < 4 else 99))
    before = stream.ask("what is there", max_tokens=4)
    assert before.prompt_rows == other.ask("what is there", max_tokens=4).prompt_rows
    assert stream.ask("what is there", max_tokens=4).tokens == before.tokens


DIGEST = ["streamingvlm:2", "videoscan:4", *LOOK_UP]


class Failing:
    """A backbone whose decoder fails once."""

    def __init__(self, backbone: Any) -> None:
        self._backbone, self.left = backbone, -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def at(self, view: Any) -> Failing:
        return self

    def extend(self, *args: Any, **options: Any) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of memory")
        return self._backbone.extend(*args, **options)


@pytest.mark.parametrize("name", DIGEST)
def test_a_step_that_fails_among_its_frames_has_changed_nothing(engine: Any, name: str) -> None:
    backbone = Failing(engine.backbone)
    stream, other = (opened(x, name, chunk_frames=3) for x in (Engine(backbone), engine))
    for i in range(8):
        stream.push(picture(i))
        other.push(picture(i))
    before = stream.state
    backbone.left = 2 if stream.pipeline.memory.one_by_one() else 1
    with pytest.raises(RuntimeError, match="out of memory"):
        stream.push(picture(8))
    assert stream.state is before
    for i in range(8, 14):
        stream.push(picture(i))
        other.push(picture(i))
    assert same(stream.state.memory, other.state.memory)


@pytest.mark.parametrize("name", DIGEST)
def test_frames_that_come_while_an_answer_is_decoded_do_not_show_in_it(engine: Any, name: str) -> None:
    """Also where frames waited when it was asked: what they became is the question's alone."""
    stream, other = (opened(engine, name, chunk_frames=3) for _ in range(2))
    for i in range(8):
        stream.push(picture(i))
        other.push(picture(i))
    parts = stream.ask_live("what is there now", max_tokens=5)
    for i in range(8, 13):
        if i == 10:
            next(parts)
        stream.push(picture(i))
    *_, answer = parts
    assert answer.tokens == other.ask("what is there now", max_tokens=5).tokens
    for i in range(8, 13):
        other.push(picture(i))
    assert same(stream.state.memory, other.state.memory)


def test_a_carrier_stands_behind_every_frame_and_costs_no_token(engine: Any) -> None:
    stream = opened(engine, "videoscan:64")
    prefix = engine.backbone.spec.prefix_rows
    for i in range(4):
        stream.push(picture(i))
        assert stream.report.tokens_kept == stream.report.tokens_in // 2
        state = stream.state.memory
        assert len(state.arrivals) == prefix + i + 1
    kinds = state.cache.table.view().column("kind").tolist()
    assert kinds == [Kind.PREFIX] * prefix + [Kind.NEWLINE] * 4


@pytest.mark.parametrize(
    "name",
    [
        "video_xl_2:2@memory.max_blocks=9@memory.block=1@memory.previous=1",
        "rekv:4@memory.window=64@memory.max_blocks=9",
        "infllm:4@memory.window=64@memory.max_blocks=9",
        "livevlm:64@memory.frames=2@memory.advance=1",
        "streamingvlm:4@memory.text_window=64",
        "videoscan:8",
        "streamingllm:64",
        "recent:4",
        "flash_vstream:6",
    ],
)
def test_turns_without_frames_stay_within_the_bound(engine: Any, name: str) -> None:
    stream = opened(engine, name)
    memory, long = stream.pipeline.memory, "what is there first now " * 20
    for i in range(3):
        stream.push(picture(i))
    held = []
    for _ in range(40):
        stream.ask(long, max_tokens=1, remember=True)
        held.append(memory.num_bytes(stream.state.memory))
    assert max(held) <= memory.bound_bytes(stream.spec)
    stream.push(picture(3))
    assert stream.ask("what is there", max_tokens=2, evidence=3).frames_seen == 4


def test_a_disk_to_which_nothing_would_go_is_refused(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^disk: rekv keeps 3 blocks in all"):
        engine.open("rekv", settings=("memory.max_blocks=3", "memory.ram_blocks=3"), disk=tmp_path / "disk")


def test_blocks_that_have_no_place_when_a_stream_goes_on_are_told_of(engine: Any, tmp_path: Path, caplog: Any) -> None:
    stream = engine.open("rekv:2", settings=("memory.ram_blocks=2", "memory.window=20"), disk=tmp_path / "disk")
    for i in range(8):
        stream.push(picture(i))
    stream.save(tmp_path / "saved")
    engine.resume(tmp_path / "saved", disk=tmp_path / "disk")
    assert not caplog.records
    engine.resume(tmp_path / "saved")
    (message,) = caplog.messages
    assert "of 8 blocks memory.ram_blocks keeps 2" in message
