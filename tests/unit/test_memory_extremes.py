"""What memories make of little: frames without a token, budgets below a run, frames with much text around them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import headrace
from headrace import registry
from headrace.backbones import plain
from headrace.engine import Pipeline
from headrace.engine.state import same
from headrace.methods.compressors.uniform import Uniform
from headrace.ops.retrieval import best_chunks
from headrace.types import Cursor, Keep, Kind, VisualTokens, join
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, vocabulary
from reference.naive.decoder import Decoder, drive, spec

from contract.streams import place, text_rows, thinned, wrapped  # isort: skip

MEMORIES = ["full", "recent:2", "streamingllm:20", "streamingllm:20@evict=before", "rekv:2@window=20"]
MEMORIES += ["rekv:2@window=20+embedding", "infllm:2@window=20", "infllm:2@window=20@block=4@exec_rows=5"]
MEMORIES += ["livevlm:9@frames=2@advance=1@page=2", "video_xl_2:1@block=1@previous=1", "videoscan:4"]
MEMORIES += ["videoscan:3@carrier=last", "streamingvlm:2", "streamingvlm:2@text_rounds=4", "flash_vstream:3"]
MEMORIES += ["flash_vstream:3@order=time", "group_position"]
GONE = {"first": "0", "some": "1,4,5", "early": "0,1,2", "all": "0,1,2,3,4,5,6,7,8,9"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that writes nothing around a frame: one that loses all its tokens has no row."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = plain.word_tokenizer(vocabulary(tuple(ALL_KINDS), ALL_INSTRUCTIONS))
    plain.save(plain.build(plain.tiny_config(len(tokenizer), clip="video"), gain=6.0), tokenizer, folder)
    return headrace.load(str(folder))


def picture(i: int) -> torch.Tensor:
    return torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holes(Uniform):
    """Drops all tokens of some frames."""

    gone: str = ""  # their numbers, with commas

    def step(self, state: Any, tokens: VisualTokens) -> Any:
        frames = torch.tensor(tokens.frames)[tokens.frame]
        return state, Keep(
            torch.nonzero(~torch.isin(frames, torch.tensor([int(x) for x in self.gone.split(",")]))).squeeze(1)
        )


Holes.__module__ = Uniform.__module__  # a saved stream finds its methods by their files


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("chunk", [1, 3])
def test_frames_of_which_no_token_is_left_are_lived_with(
    engine: Any, name: str, gone: str, chunk: int, tmp_path: Path
) -> None:
    """Shown, asked about, remembered and saved; what comes out does not depend on having been saved."""
    pipeline = Pipeline.parse(name, chunk_frames=chunk)
    stream = engine.open(replace(pipeline, compressor=Holes(keep=1, gone=GONE[gone])))
    for i in range(9):
        stream.push(picture(i))
        if i in (0, 3, 5):
            stream.ask("what is there", max_tokens=2, remember=i != 0)
    stream.ask("what is there now", max_tokens=2, evidence=3)
    fork = stream.fork()
    for s in (stream, fork):
        s.push(picture(9))
    answers = [s.ask("what was there first", max_tokens=3).tokens for s in (stream, fork)]
    assert answers[0] == answers[1]
    assert same(stream.state.memory, fork.state.memory)
    stream.save(tmp_path / "saved")
    bound = pipeline.memory.bound_bytes(engine.backbone.spec)
    assert bound is None or pipeline.memory.num_bytes(stream.state.memory) <= bound


def test_no_run_is_longer_than_what_is_looked_up() -> None:
    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6])
    assert best_chunks(scores, 4, 8).tolist() == [0, 1, 2, 3]
    assert best_chunks(scores, 2, 10**12).tolist() == [6], "the last run is short"
    assert best_chunks(scores, 0, 8).tolist() == []


@pytest.mark.parametrize("retrieve", [1, 4])
def test_an_answer_rests_on_pictures_however_long_runs_are(engine: Any, retrieve: int) -> None:
    stream = engine.open(f"rekv:{retrieve}@window=20+rekv_internal:8")
    for i in range(10):
        stream.push(picture(i))
    found = stream.ask("what is there", max_tokens=2, evidence=9).evidence
    assert len(found) >= retrieve


@pytest.mark.parametrize("name", ["rekv:1@window=9", "infllm:1@window=9", "video_xl_2:0", "livevlm"])
@pytest.mark.parametrize("around", [1, 30])
def test_a_frame_and_all_that_stands_around_it_is_one_block(name: str, around: int) -> None:
    """Behind a turn a family may write much before a frame; only what is longer than it says is cut."""
    model = replace(spec(windows=(None,)), around_rows=around)
    method = Pipeline.parse(name).memory
    decoder, state, cursor = Decoder(model), method.init(model), Cursor()
    opening = text_rows(3, 30, 1, model.dtype, kind=Kind.MARKER, turn=1)
    frame = wrapped(thinned(1, 0, model.dtype), 1)
    for raw in (frame, join([opening, replace(frame, frame=frame.frame + 1)])):
        segment, cursor = place(raw, cursor)
        context = method.read(state, model, query=False)
        drive(decoder, segment, context)
        state = method.write(state, context.finish())
    ends = [block.stop_row for block in state.shelf.blocks] if hasattr(state, "shelf") else []
    ends += list(getattr(state, "ends", ())) if not name.startswith("video_xl_2") else []
    num = len(frame)
    assert sorted(ends) == [num, *([num + 22] if around == 1 else []), 2 * num + 30]


def whole_numbers(role: str) -> list[tuple[str, str]]:
    """Names of methods, and of their fields that are whole numbers."""
    found = [entry for entry in registry.entries().values() if entry.role == role]
    fields = [(entry.name, field) for entry in found for field in dataclasses.fields(entry.method)]
    return [(name, field.name) for name, field in fields if "int" in str(field.type).split(" | ")]


@pytest.mark.parametrize(("name", "field"), [*whole_numbers("memory"), *whole_numbers("retriever")])
def test_the_largest_number_is_enough_for_everything(engine: Any, name: str, field: str) -> None:
    """Nothing is allocated for what may come; anything larger is refused in one line."""
    memory = name if registry.lookup(name).role == "memory" else f"rekv:1@window=9+{name}"
    parts = Pipeline.parse(memory).methods()
    role = registry.lookup(name).role
    stream = engine.open(Pipeline(**{**parts, role: registry.change(parts[role], **{field: registry.MOST})}))
    for i in range(4):
        stream.push(picture(i))
    stream.ask("what is there", max_tokens=2, remember=True)
    stream.push(picture(4))
    assert stream.ask("what is there now", max_tokens=2).tokens
    for value in (registry.MOST + 1, 10**30):
        with pytest.raises(ValueError, match=rf"^{name}\.{field}: must be at most \d+, not {value}$"):
            registry.build(name, **{field: value})
