"""Every method away from the CPU: nothing is mixed up, answers are the CPU's, and frames do not wait layer by layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import headrace
from headrace import registry
from headrace.backbones import FAMILIES
from headrace.engine import Engine, Pipeline, Stream
from headrace.engine.state import pack
from headrace.types import Frame
from parity.families import write
from unit.elsewhere import DEVICE, NAME, elsewhere
from unit.tiny import save_tiny

from contract.plays import twin_of  # isort: skip
from contract.streams import dice  # isort: skip

COMBINED = [
    "dense",
    "stc@encoder.refresh_interval=3",
    "stc_cacher@encoder.selection=shared@encoder.metric=l1",
    "stc_adaptive@encoder.drift=5.0@encoder.max_age=6",
    "random:0.3+streamingllm:40",
    "uniform:2+streamingllm:40@memory.evict=before",
    "stc_pruner:2@compressor.score=dual_anchor@compressor.channels=fixed",
    "flash_vstream:3@memory.details=2",
    "group_position",
    "infllm:2@memory.window=20",
    "infllm:2@memory.window=20@memory.near=0@memory.per_head=True",
    "livevlm:30@memory.frames=3@memory.advance=2",
    "recent:3+eos_threshold",
    "rekv:2@memory.window=20",
    "rekv:2+embedding@memory.window=20@memory.recent=1@memory.narrow=True",
    "rekv:2+recency@memory.window=20",
    "streamingllm:40+eos_threshold",
    "streamingvlm:3",
    "video_xl_2:2@memory.block=2",
    "videoscan:8",
]


def named(pipelines: list[str]) -> set[str]:
    """The methods of some pipelines."""
    return {registry.name_of(method) for text in pipelines for method in Pipeline.parse(text).methods().values()}


def untried(pipelines: list[str]) -> list[str]:
    """Pipelines for the methods that these lack: one for each variant that the contract tries."""
    found = []
    for entry in registry.entries().values():
        if entry.name not in named(pipelines):
            before = "rekv:2@window=20+" if entry.role == "retriever" else ""
            for values in twin_of(entry.name).VARIANTS:
                found.append(before + "@".join([entry.name, *(f"{key}={value!r}" for key, value in values.items())]))
    return found


PIPELINES = COMBINED + untried(COMBINED)


def pictures(num: int) -> list[torch.Tensor]:
    """Some that are alike, some that are not; none the same, because what is chosen of equals hangs on the last bit."""
    still = torch.randint(0, 256, (48, 64, 3), generator=dice(1))
    noise = (torch.randint(-256 if i % 3 == 2 else -9, 9, (48, 64, 3), generator=dice(2, i)) for i in range(num))
    return [(still + x).clamp(0, 255).byte() for x in noise]


def opened(engine: Engine, name: str) -> Stream:
    stream = engine.open(name)
    if stream.pipeline.speaker.reads_reply:
        stream.watch("say when there is a cut", max_tokens=2)
    return stream


def played(model: str, device: str, name: str, folder: Path) -> tuple[Any, ...]:
    """Everything a stream can do; what it said, and the stream as it was saved."""
    engine = headrace.load(model, dtype="float32", device=device)
    stream, said = opened(engine, name), []
    for index, image in enumerate(pictures(7)):
        said += [(event.time_s, event.answer.tokens) for event in stream.push(Frame(index, float(index), image))]
    remembered = stream.ask("w1 w2", max_tokens=3, remember=True)
    other = stream.fork().ask("w3", max_tokens=3, temperature=1.0, repetition_penalty=1.2)
    for index, image in enumerate(pictures(8)[7:], start=7):
        stream.push(Frame(index, float(index), image))
    stream.save(folder)
    last = engine.resume(folder).ask("w2", max_tokens=3)
    return said, [(x.tokens, [m.frame for m in x.evidence]) for x in (remembered, other, last)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_stream_elsewhere_is_the_one_here(model: str, tmp_path: Path, name: str) -> None:
    expected = played(model, "cpu", name, tmp_path / "here")
    with elsewhere():
        assert played(model, NAME, name, tmp_path / "away") == expected
    engine = headrace.load(model, dtype="float32", device="cpu")
    trees, tensors = [], []
    for folder in ("here", "away"):
        tensors.append({})
        trees.append(pack(engine.resume(tmp_path / folder).state, tensors[-1]))
    assert trees[0] == trees[1]
    for key, here in tensors[0].items():
        here, away = here.double(), tensors[1][key].double()
        largest = float(here.abs().max()) if here.numel() else 0.0
        torch.testing.assert_close(away, here, rtol=0, atol=1e-4 * (1 + largest))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_all_families_work_elsewhere(tmp_path: Path, family: str) -> None:
    write(family, tmp_path / "model")
    for name in ("stc+rekv:2@memory.window=20", "stc_adaptive+flash_vstream:3@memory.details=2"):
        found = [played(str(tmp_path / "model"), "cpu", name, tmp_path / "here")]
        with elsewhere():
            found.append(played(str(tmp_path / "model"), NAME, name, tmp_path / "away"))
        assert found[0] == found[1]


@pytest.mark.long
@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_all_methods_work_elsewhere_on_all_families(tmp_path: Path, family: str, name: str) -> None:
    write(family, tmp_path / "model")
    expected = played(str(tmp_path / "model"), "cpu", name, tmp_path / "here")
    with elsewhere():
        assert played(str(tmp_path / "model"), NAME, name, tmp_path / "away") == expected


def test_every_method_is_tried() -> None:
    missing = registry.entries().keys() - named(PIPELINES)
    assert not missing, f"no pipeline here has {', '.join(sorted(missing))}"


def test_a_new_method_is_tried_without_being_listed() -> None:
    """Of any role; names are compared whole, ``rekv`` is no ``rekv_internal``."""
    few = ["dense", "rekv:2+embedding+stc_pruner"]
    found = untried(few)
    assert {"random@keep=7@seed=3", "recent@frames=1", "eos_threshold@threshold=0.725"} < set(found)
    assert "rekv:2@window=20+rekv_internal@chunk=2" in found
    assert named(few + found) == set(registry.entries())


@pytest.mark.parametrize("name", ["dense", "stc", "stc+streamingllm:40", "recent:3", "streamingvlm:3", "videoscan:8"])
def test_a_frame_waits_for_its_device_once_at_most(model: str, name: str) -> None:
    """The pruner's choice is made on the CPU; nothing is read back layer by layer."""
    with elsewhere():
        stream = opened(headrace.load(model, dtype="float32", device=NAME), name)
        for index, image in enumerate(pictures(6)):
            stream.push(Frame(index, float(index), image))
    with elsewhere() as waits:
        stream.push(Frame(6, 6.0, pictures(7)[6]))
    assert waits.total() <= ("stc" in name), waits


@pytest.mark.parametrize(
    ("name", "per_layer", "per_frame"),
    [
        ("rekv:2@memory.window=20", 0, 1),  # a block leaves for the host
        ("infllm:2@memory.window=20", 2, 1),  # which blocks are looked up, and what stands for a new one
        ("livevlm:30@memory.frames=3@memory.advance=2", 1, 0),  # which rows stay
        ("video_xl_2:2@memory.block=2", 0, 2),  # keys and values leave apart
    ],
)
def test_a_frame_waits_for_what_is_chosen_layer_by_layer(model: str, name: str, per_layer: int, per_frame: int) -> None:
    with elsewhere() as waits:
        stream = opened(headrace.load(model, dtype="float32", device=NAME), name)
        for index, image in enumerate(pictures(12)):
            waits.clear()
            stream.push(Frame(index, float(index), image))
            assert waits.total() <= per_layer * stream.spec.layers + per_frame, waits


@pytest.mark.parametrize("name", ["dense", "stc+streamingllm:40", "recent:3"])
def test_an_answer_waits_once_per_token_and_once_for_what_it_rests_on(model: str, name: str) -> None:
    with elsewhere() as waits:
        stream = opened(headrace.load(model, dtype="float32", device=NAME), name)
        for index, image in enumerate(pictures(6)):
            stream.push(Frame(index, float(index), image))
        waits.clear()
        answer = stream.ask("w1 w2", max_tokens=4)
    assert waits.total() <= len(answer.tokens) + 2, waits


def test_what_is_mixed_is_refused_and_what_waits_is_counted() -> None:
    with elsewhere() as waits:
        x = torch.arange(6.0, device=DEVICE)
        with pytest.raises(RuntimeError, match="one device"):
            x + torch.ones(6)
        with pytest.raises(RuntimeError, match="one device"):
            x.index_select(0, torch.tensor([1]))
        assert (x * 2 + torch.tensor(1.0))[torch.tensor([1, 2])].device == DEVICE
        assert not waits
        assert float(x.sum()) == 15
        assert x[x > 2].tolist() == [3, 4, 5]
        assert waits.total() == 3, "a sum, a size and a list"
        y = torch.zeros(2, device=DEVICE)
        assert y.add_(1) is y
        assert torch.equal(y.cpu(), torch.ones(2))
    assert isinstance(waits, Counter)
