"""Budgets, bounds and wrong input: nothing is lost, and every refusal is one line that names what is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.engine import MemoryBudgetError, Pipeline
from headrace.engine.state import fork, same
from headrace.types import Frame, Query
from parity.models import QUESTION, frames, tiny

BOTH = pytest.mark.parametrize("clip", ["video", "frame"])


def opened(pipeline="full", *, clip="video", num=0, **options):
    stream = tiny(clip, seed=1).engine.open(pipeline, **options)
    for frame in frames(num):
        stream.push(frame)
    return stream


def held(stream) -> int:
    """Bytes the memory says it holds."""
    return stream.pipeline.memory.num_bytes(stream.state.memory)


def storages(value: Any, found: dict[int, int], seen: set[int]) -> None:
    """Find every piece of memory an object keeps alive, by walking all it refers to."""
    if id(value) in seen or isinstance(value, str | int | float | bool | type | None):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for item in value.values():
            storages(item, found, seen)
    elif isinstance(value, tuple | list | frozenset):
        for item in value:
            storages(item, found, seen)
    elif type(value).__name__ == "ModelSpec":
        return
    else:
        names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else vars(value)
        for name in names:
            storages(getattr(value, name), found, seen)


def really_held(stream) -> int:
    """Bytes of all tensors the state keeps alive."""
    found: dict[int, int] = {}
    storages(stream.state, found, set())
    return sum(found.values())


@BOTH
@pytest.mark.parametrize("pipeline", ["recent:4", "streamingllm:64", "recent:4+uniform:2"])
def test_flat_over_1000_frames(clip, pipeline):
    stream = opened(pipeline, clip=clip)
    bound = stream.pipeline.memory.bound_bytes(stream._backbone.spec)
    said, real = [], []
    picture = frames(1)[0].image
    for i in range(1000):
        stream.push(Frame(i, float(i), picture))
        said.append(held(stream))
        if i % 10 == 9:
            real.append(really_held(stream))
        if i in (200, 600):
            stream.ask(QUESTION, max_tokens=3, remember=True)
    assert max(said) <= bound
    assert max(real[20:]) <= max(real[:90]) * 1.01
    if clip == "frame" or not pipeline.startswith("streamingllm"):  # the row table is dropped in blocks of 4096 rows
        assert max(said[900:]) <= max(said[:900])
    assert stream.ask(QUESTION, max_tokens=2, evidence=99).frames_seen == 1000


@BOTH
def test_full_grows_by_a_constant_per_frame(clip):
    stream = opened(clip=clip, num=1)
    spec = stream._backbone.spec
    rows = 4 if clip == "video" else 5
    sizes = [held(stream)]
    for frame in frames(30, first=1):
        stream.push(frame)
        sizes.append(held(stream))
    steps = set(np.diff(sizes).tolist())
    assert steps == {rows * (spec.row_bytes * 3 // 2 + 8 * spec.layers + 29)}
    assert stream.pipeline.memory.bound_bytes(spec) is None
    assert stream.report.memory_bytes == sizes[-1]


@pytest.mark.parametrize("pipeline", ["recent:4", "streamingllm:64", "streamingllm:100+uniform:1"])
def test_a_bound_above_the_budget_is_refused_when_the_stream_is_opened(pipeline):
    bound = opened(pipeline).pipeline.memory.bound_bytes(tiny(seed=1).engine.backbone.spec)
    opened(pipeline, memory_mb=(bound + 1) / 2**20, num=3).ask(QUESTION, max_tokens=1)
    with pytest.raises(MemoryBudgetError, match=r"^memory budget: ") as raised:
        opened(pipeline, memory_mb=(bound - 1) / 2**20)
    assert "\n" not in str(raised.value)


@BOTH
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_full_memory_refuses_a_frame_and_loses_nothing(clip, chunk):
    budget = 40_000
    stream = opened(clip=clip, memory_mb=budget / 2**20, chunk_frames=chunk)
    taken = 0
    with pytest.raises(MemoryBudgetError, match=r"^memory budget: ") as raised:  # noqa: PT012
        for frame in frames(100):
            before = fork(stream.state)
            stream.push(frame)
            taken += 1
            assert held(stream) <= budget
    assert "\n" not in str(raised.value)
    assert "--memory-mb" in str(raised.value)
    assert taken > 5
    assert same(stream.state, before)
    assert stream.num_frames == taken
    free = opened(clip=clip, num=taken, chunk_frames=chunk)
    assert same(stream.state, free.state)
    assert stream.ask(QUESTION, max_tokens=6).tokens == free.ask(QUESTION, max_tokens=6).tokens
    with pytest.raises(MemoryBudgetError):
        stream.push(frames(1, first=99)[0])
    assert same(stream.state, free.state)


def test_the_budget_holds_for_what_is_remembered_too():
    stream = opened(memory_mb=30_000 / 2**20, num=5)
    before = fork(stream.state)
    with pytest.raises(MemoryBudgetError, match=r"^memory budget: "):
        stream.ask("w1 " * 60, remember=True, max_tokens=2)
    assert same(stream.state, before)
    assert stream.ask("w1 " * 60, max_tokens=2).tokens
    for _ in range(40):
        try:
            stream.ask("w1", remember=True, max_tokens=20)
        except MemoryBudgetError:
            break
        assert held(stream) <= 30_000
    else:
        pytest.fail("nothing was ever refused")


def test_a_budget_without_room_for_the_prefix_is_refused_when_the_stream_is_opened():
    with pytest.raises(MemoryBudgetError, match=r"^memory budget: "):
        opened(memory_mb=1 / 2**20)


@pytest.mark.parametrize("memory_mb", [0, -1, float("nan"), float("inf")])
def test_a_wrong_budget_is_named(memory_mb):
    with pytest.raises(ValueError, match=r"^memory_mb: "):
        opened(memory_mb=memory_mb)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_wrong_chunk_is_named(chunk):
    with pytest.raises(ValueError, match=r"^chunk_frames: "):
        opened(chunk_frames=chunk)


@pytest.mark.parametrize("pipeline", ["", "nothing", "full+", "recent:0", "recent:x", "full+recent"])
def test_a_wrong_pipeline_is_one_line(pipeline):
    with pytest.raises(ValueError) as raised:
        opened(pipeline)
    assert "\n" not in str(raised.value)


def test_a_pipeline_may_be_given_as_a_value():
    stream = tiny(seed=1).engine.open(Pipeline.parse("recent:2", chunk_frames=2))
    assert stream.pipeline.chunk_frames == 2
    assert "recent(frames=2" in str(stream.pipeline)


def test_a_question_on_an_empty_stream():
    for stream in (opened(), opened("recent:4"), opened("streamingllm:40")):
        with pytest.raises(ValueError, match=r"^question: no frame"):
            stream.ask(QUESTION)


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_an_empty_question(question):
    with pytest.raises(ValueError, match=r"^question: is empty"):
        opened(num=1).ask(question)


@pytest.mark.parametrize("remember", [False, True])
@pytest.mark.parametrize("token", ["<|im_end|>", "<video>", "<image>", "<|im_start|>"])
def test_control_tokens_in_a_question(token, remember):
    stream = opened(num=2, chunk_frames=2)
    stream.push(frames(1, first=2)[0])
    before = fork(stream.state)
    with pytest.raises(ValueError, match=r"^question: holds .* control token"):
        stream.ask(f"w1 {token} w2", remember=remember)
    assert same(stream.state, before)


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"evidence": -2}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: "):
        opened(num=1).ask(QUESTION, **options)


def test_options_that_do_not_exist_are_named():
    with pytest.raises(TypeError, match="temprature"):
        opened(num=1).ask(QUESTION, temprature=1)


def test_options_beside_a_query_replace_its_own():
    stream = opened(num=1)
    assert len(stream.ask(Query(QUESTION, max_tokens=9), max_tokens=3).tokens) == 3
    with pytest.raises(ValueError, match=r"^max_tokens: "):
        stream.ask(Query(QUESTION), max_tokens=0)


BAD_PICTURES = {
    "grey": np.zeros((28, 28), np.uint8),
    "with alpha": np.zeros((28, 28, 4), np.uint8),
    "planes first": np.zeros((3, 28, 28), np.uint8),
    "a batch": torch.zeros(1, 28, 28, 3, dtype=torch.uint8),
    "floats": np.zeros((28, 28, 3), np.float32),
    "wide integers": torch.zeros(28, 28, 3, dtype=torch.int64),
    "objects": np.zeros((28, 28, 3), object),
    "no rows": np.zeros((0, 28, 3), np.uint8),
    "no columns": torch.zeros(28, 0, 3, dtype=torch.uint8),
    "a list": [[0, 0, 0]],
    "a name": "frame.png",
    "nothing": None,
}


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("name", BAD_PICTURES)
def test_what_is_no_picture_is_refused_and_changes_nothing(name, chunk):
    stream = opened(num=1, chunk_frames=chunk)
    before = fork(stream.state)
    with pytest.raises(ValueError) as raised:
        stream.push(BAD_PICTURES[name])
    assert "\n" not in str(raised.value)
    assert "(H, W, 3)" in str(raised.value) or "(height, width, 3)" in str(raised.value)
    assert same(stream.state, before)


@pytest.mark.parametrize("flip", [np.s_[::-1], np.s_[:, ::-1], np.s_[..., ::-1], np.s_[::2]])
def test_views_of_arrays_are_pictures(flip):
    """OpenCV users turn BGR around with a negative stride."""
    picture = frames(1, size=(56, 28))[0].image.numpy()[flip]
    picture.flags.writeable = False
    a, b = opened(), opened()
    a.push(picture)
    b.push(np.ascontiguousarray(picture))
    assert same(a.state, b.state)


def test_a_closed_stream_refuses_everything(tmp_path):
    stream = opened(num=2)
    with stream:
        stream.ask(QUESTION, max_tokens=1)
    acts = {
        "push": lambda: stream.push(frames(1)[0]),
        "ask": lambda: stream.ask(QUESTION),
        "remember": lambda: stream.ask(QUESTION, remember=True),
        "fork": stream.fork,
        "save": lambda: stream.save(tmp_path),
    }
    for act in acts.values():
        with pytest.raises(ValueError, match=r"^this stream is closed"):
            act()
    assert list(tmp_path.iterdir()) == []
    assert stream.state.memory is None
    stream.close()


def test_a_stream_that_is_closed_while_it_answers_finishes_the_answer():
    stream = opened(num=2)
    want = stream.ask(QUESTION, max_tokens=4)
    live = stream.ask_live(QUESTION, max_tokens=4)
    next(live)
    stream.close()
    assert list(live)[-1].tokens == want.tokens


def test_the_model_carries_no_fingerprints():
    """Not one attribute, hook, parameter or buffer differs after everything a stream can do."""
    engine = tiny("frame", seed=3).engine
    model = engine.backbone._model

    def look():
        found = {}
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                shown = {k: id(v) for k, v in value.items()} if isinstance(value, dict) else repr(value)
                found[name, key] = shown
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return found, {name: (x.clone(), x.data_ptr(), x._version, x.requires_grad) for name, x in tensors.items()}

    before, tensors = look()
    config = model.config.to_json_string()
    for pipeline in ("full", "recent:3", "streamingllm:30+uniform:2"):
        stream = engine.open(pipeline, chunk_frames=2)
        for frame in frames(7):
            stream.push(frame)
        stream.ask(QUESTION, max_tokens=3, temperature=1.0, remember=True)
        stream.fork().ask(QUESTION, max_tokens=3)
    after, tensors_after = look()
    assert after == before
    assert model.config.to_json_string() == config
    assert not model.training
    for name, (value, *rest) in tensors.items():
        assert torch.equal(tensors_after[name][0], value)
        assert list(tensors_after[name][1:]) == rest
    assert not any(x.grad is not None for x in model.parameters())
