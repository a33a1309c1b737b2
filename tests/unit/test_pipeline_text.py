"""The text of a pipeline: defaults, settings, what is stored with every result, and what may be tuned."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from headrace import Pipeline, registry
from headrace.methods.compressors.keep_all import KeepAll
from headrace.methods.compressors.uniform import Uniform
from headrace.methods.encoders.dense import Dense
from headrace.methods.memories.full import Full
from headrace.methods.memories.recent import Recent
from headrace.methods.memories.streamingllm import StreamingLLM
from headrace.methods.speakers.on_request import OnRequest

PLAIN = Pipeline(encoder=Dense(), compressor=KeepAll(), memory=Full(), speaker=OnRequest())


@pytest.mark.parametrize(
    ("text", "settings", "want"),
    [
        ("dense", [], PLAIN),
        ("full", [], PLAIN),
        ("on_request+keep_all", [], PLAIN),
        ("recent:8", [], dataclasses.replace(PLAIN, memory=Recent(frames=8))),
        (
            "streamingllm:2048+uniform:0.3",
            [],
            dataclasses.replace(PLAIN, memory=StreamingLLM(window=2048), compressor=Uniform(keep=0.3)),
        ),
        ("dense", ["memory.positions=original"], dataclasses.replace(PLAIN, memory=Full(positions="original"))),
        ("uniform", ["compressor.keep=60"], dataclasses.replace(PLAIN, compressor=Uniform(keep=60))),
    ],
)
def test_roles_that_are_not_named_take_their_default(text: str, settings: list[str], want: Pipeline):
    assert Pipeline.parse(text, settings) == want
    assert Pipeline.parse(text, iter(settings)) == want


def test_dense_is_the_default():
    assert Pipeline.parse() == PLAIN


@pytest.mark.parametrize("chunk_frames", [0, -1])
def test_chunk_frames_are_checked(chunk_frames: int):
    with pytest.raises(ValueError, match=r"^chunk_frames: must be a whole number from 1"):
        Pipeline.parse("dense", chunk_frames=chunk_frames)


@pytest.mark.parametrize(
    ("text", "settings"),
    [("", []), ("nonsense", []), ("full+recent", []), ("dense", ["pruner.keep=3"]), ("dense", ["compressor.keep=3"])],
)
def test_mistakes_are_value_errors(text: str, settings: list[str]):
    with pytest.raises(ValueError, match=r"."):
        Pipeline.parse(text, settings)


@pytest.mark.parametrize("name", list(registry.entries()))
def test_the_text_names_every_method_and_parameter(name: str):
    pipeline = Pipeline(**{**PLAIN.methods(), registry.lookup(name).role: registry.build(name)}, chunk_frames=7)
    text = str(pipeline)
    assert "\n" not in text
    for role, method in pipeline.methods().items():
        assert f"{role}={registry.name_of(method)}(" in text
        for field in dataclasses.fields(method):
            assert f"{field.name}={getattr(method, field.name)!r}" in text
    assert text.endswith("chunk_frames=7")


def test_the_text_in_full():
    assert str(Pipeline.parse("streamingllm:64+uniform:0.3", chunk_frames=2)) == (
        "encoder=dense() compressor=uniform(keep=0.3)"
        " memory=streamingllm(window=64, sinks=None, evict='after', positions='auto')"
        " speaker=on_request() chunk_frames=2"
    )


def test_different_pipelines_have_different_texts():
    texts = ["dense", "recent:4", "recent:5", "uniform:1", "uniform:1.0", "streamingllm", "random"]
    assert len({str(Pipeline.parse(text)) for text in texts}) == len(texts)
    assert str(Pipeline.parse("dense", chunk_frames=2)) != str(Pipeline.parse("dense"))


def test_empty_roles_are_left_out():
    assert list(PLAIN.methods()) == ["encoder", "compressor", "memory", "speaker"]
    assert "pruner" not in str(PLAIN)


def test_tuned():
    pipeline = Pipeline.parse("recent:4+uniform:9")
    other = pipeline.tuned(compressor={"keep": 30}, memory={"frames": 2})
    assert other == dataclasses.replace(pipeline, compressor=Uniform(keep=30), memory=Recent(frames=2))
    assert pipeline == Pipeline.parse("recent:4+uniform:9")
    assert pipeline.tuned() == pipeline


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": {"positions": "repack"}}, "memory.positions: cannot change while a stream runs"),
        ({"memory": {"nothing": 1}}, "memory.nothing: cannot change"),
        ({"pruner": {"keep": 1}}, "pruner: this pipeline has none"),
        ({"cook": {"keep": 1}}, "cook: this pipeline has none"),
        ({"compressor": {"keep": 0}}, "keep: 0 is no budget"),
        ({"memory": {"frames": 0}}, "frames: must be at least 1"),
    ],
)
def test_what_cannot_be_tuned(values: dict[str, dict[str, Any]], message: str):
    with pytest.raises(ValueError, match=message):
        Pipeline.parse("recent:4+uniform:9").tuned(**values)


def test_a_method_that_looks_ahead_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Ahead(KeepAll):
        causal: ClassVar[bool] = False

    with pytest.raises(ValueError, match="cannot run on a live stream"):
        dataclasses.replace(PLAIN, compressor=Ahead())


def test_a_pipeline_is_a_value():
    assert hash(Pipeline.parse("recent:4")) == hash(Pipeline.parse("recent:4"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.chunk_frames = 3
