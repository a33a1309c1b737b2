"""The same code on a GPU; run by ``make test-gpu`` on a machine that has one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import headrace
from headrace.backbones import FAMILIES, adopt, plain
from headrace.backbones.graphs import Graphs, _record
from headrace.bench.overhead import overhead
from headrace.ops import selective
from headrace.ops.attention import KeyGroup, attention_mass, joint_attention, plain_attention
from headrace.registry import build
from headrace.types import Frame
from headrace.video.world import vocabulary

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 7, 196])
def test_joint_attention(dtype: torch.dtype, rows: int) -> None:
    q = torch.randn(14, rows, 64, device="cuda", dtype=dtype)
    sizes = [4096, 100, 1, rows]
    keys, values = (torch.randn(2, sum(sizes), 64, device="cuda", dtype=dtype) for _ in "kv")
    groups = [KeyGroup(k, v) for k, v in zip(keys.split(sizes, 1), values.split(sizes, 1), strict=True)]
    groups[-1] = KeyGroup(groups[-1].keys, groups[-1].values, causal=True)
    mask = torch.ones(rows, sum(sizes), dtype=torch.bool, device="cuda").tril(sum(sizes) - rows)
    wide = [x.double().repeat_interleave(7, 0)[None] for x in (keys, values)]
    expected, _ = plain_attention(q.double()[None], *wide, 0.125, mask=mask)
    found = joint_attention(q, groups, scale=0.125)
    assert (found.double() - expected[0]).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
    mass = attention_mass(q[:, -1:], groups, scale=0.125)
    assert float(sum(part.sum() for part in mass)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("pipeline", ["dense", "recent:3", "streamingllm:24+uniform:2"])
def test_answers_equal_the_processor(tmp_path: Path, pipeline: str) -> None:
    tokenizer = plain.word_tokenizer(vocabulary())
    plain.save(plain.build(plain.tiny_config(len(tokenizer)), gain=6.0), tokenizer, tmp_path)
    images = [torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8) for _ in range(12)]
    answers = []
    for device in ("cpu", "cuda"):
        stream = headrace.load(str(tmp_path), dtype="float32", device=device).open(pipeline)
        for index, image in enumerate(images):
            stream.push(Frame(index, float(index), image))
        stream.ask("what colour is the star", max_tokens=4, remember=True)
        stream.save(tmp_path / device)
        answers.append(stream.ask("where is the circle", max_tokens=12))
    assert answers[0].tokens == answers[1].tokens
    for a, b in zip(answers[0].evidence, answers[1].evidence, strict=True):
        assert (a.frame, a.score) == (b.frame, pytest.approx(b.score, abs=1e-4))


@pytest.mark.parametrize("near", [0, 32])
def test_blocks_that_left_the_window_lie_on_the_host(near: int) -> None:
    """In pinned pages; what is looked up is copied, once where copies are kept, and answers are a CPU's."""
    images = [torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8) for _ in range(12)]
    answers = []
    for device in ("cpu", "cuda"):
        settings = ("memory.window=130", f"memory.near={near}")
        stream = headrace.load("nano", dtype="float32", device=device).open("infllm:3", settings=settings)
        for index, image in enumerate(images):
            stream.push(Frame(index, float(index), image))
        answers.append(stream.ask("how many things are there", max_tokens=6).tokens)
    shelf = stream.state.memory.shelf
    assert all(block.is_low and block.open().parts[0].is_pinned() for block in shelf.blocks)
    assert (shelf.near.hits > 0) == (near > 0)
    assert answers[0] == answers[1]


def test_overhead() -> None:
    found = overhead(shape="llava-onevision-0.5b", frames=16, repeats=2, device="cuda")
    assert found.engine_ratio <= 1.05


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_selective_pass_is_the_plain_one_bit_for_bit(dtype: torch.dtype, fused: bool) -> None:
    tokenizer = plain.word_tokenizer(vocabulary())
    model = plain.build(plain.shape_config("llava-onevision-0.5b")).to("cuda", dtype)
    method = build("stc_cacher", refresh_interval=4, fused=fused)
    shots = torch.randint(0, 256, (12, 384, 384, 3), dtype=torch.uint8)
    kinds = []

    def captured(work, inputs):
        kinds.append("captured")
        return _record(work, inputs)

    def repeated(work, inputs):
        kinds.append("repeated")
        return as_it_stands(work)

    def watch(recorder):
        backbone = adopt(model, tokenizer, name="wide")
        backbone._graphs, state, seen = Graphs(recorder), method.init(backbone.spec), []
        for index, image in enumerate(shots):
            state, tokens = method.step(state, [Frame(index, float(index), image)], backbone)
            seen.append(tokens.features)
        return seen

    with torch.no_grad():
        plainly, recorded = watch(repeated), watch(captured)
    assert kinds == ["repeated"] * 2 + ["captured"] * 2, "refresh and selective"
    assert all(torch.equal(a, b) for a, b in zip(plainly, recorded, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("dtype", selective.NARROW)
@pytest.mark.parametrize("shape", [(1, 729, 1152, 182), (3, 729, 1152, 182), (1, 4900, 1280, 1225)], ids=str)
def test_kernels_give_what_plain_operations_give(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    num_frames, num, width, many = shape
    make = {"device": "cuda", "dtype": dtype}
    keys, h = (torch.randn(num_frames, num, width, **make) for _ in "kh")
    reference, added = (torch.randn(num, width, **make) for _ in "ra")
    mixed = torch.randn(num_frames, many, width, **make)
    for metric in selective.METRICS:
        found = selective.choose(keys, reference, num=many, metric=metric, fused=True)
        assert hasattr(found, "places"), "kernels chose"
        plainly = selective.choose_plainly(keys, reference, num=many, metric=metric)
        scores = selective.similarity(keys, reference, metric)  # rows alike to the last bits may change places
        ordered = [scores.gather(1, x.rows) for x in (found, plainly)]
        torch.testing.assert_close(*ordered, rtol=1e-6, atol=1e-6)
        assert all(len(set(rows)) == many for rows in found.rows.tolist())
    plainly = selective.Chosen(
        found.rows, (found.rows + num * torch.arange(num_frames, device="cuda")[:, None]).flatten()
    )
    for a, b in zip(found.pick(keys, h), plainly.pick(keys, h), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.put(reference, mixed), plainly.put(reference, mixed))
    assert torch.equal(found.settle(h, added, mixed, mixed), plainly.settle(h, added, mixed, mixed))


@torch.no_grad()
def test_a_recording_that_fails_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    graphs, x = Graphs(), torch.ones(4, device="cuda")
    for _ in range(3):
        assert graphs.run("bad", lambda x: [x + float(x.sum())], (x,))[0].tolist() == [5.0] * 4
    assert len(caplog.records) == 1, "a number was read back"
    for _ in range(3):
        assert graphs.run("good", lambda x: [2 * x], (x,))[0].tolist() == [2.0] * 4
    assert len(caplog.records) == 1


@torch.no_grad()
def test_recordings_share_their_rooms() -> None:
    graphs, x = Graphs(most=64), torch.zeros(1 << 20, device="cuda")
    for _ in range(2):
        graphs.run("a", lambda x: [x + 1], (x,), part=0)
    held = torch.cuda.memory_allocated()
    for part in range(1, 30):
        for _ in range(3):
            assert torch.equal(graphs.run("a", lambda x, part=part: [x + part], (x,), part=part)[0], x + part)
    assert torch.cuda.memory_allocated() - held < 3 * x.nbytes


@torch.no_grad()
def test_a_recording_keeps_what_it_reads() -> None:
    """A tower's tables belong to a view, which goes with its stream; the graph reads them still."""
    graphs, x, table = Graphs(), torch.randn(1 << 20, device="cuda"), torch.randn(1 << 20, device="cuda")

    def through(table: torch.Tensor) -> torch.Tensor:
        return graphs.run("a", lambda x: [x + table], (x,))[0]

    expected = x + table
    assert all(torch.equal(through(table), expected) for _ in range(3))
    other = table.clone()
    del table
    rubbish = [torch.full_like(x, 7.0) for _ in range(8)]  # takes the memory that was given back
    assert torch.equal(through(other), expected)
    assert len(rubbish) == 8


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("pipeline", ["dense", "stc+streamingllm:64"])
def test_a_stream_from_graphs_is_the_plain_one_bit_for_bit(tmp_path: Path, family: str, pipeline: str) -> None:
    plain.save(*plain.tiny(family, ["what", "is"]), tmp_path)
    shots = torch.randint(0, 256, (2, 12, 40, 40, 3), dtype=torch.uint8)

    def open_two(graphs=Graphs):
        engine = headrace.load(str(tmp_path), dtype="bfloat16", device="cuda")
        engine.backbone._graphs, engine.backbone._rows = graphs(), graphs()
        return [engine.open(pipeline) for _ in range(2)]

    def watch(stream, number):
        said = []
        for index in range(12):
            stream.push(Frame(index, float(index), shots[number, index]))
            if index % 3 == 2:
                found = stream.ask("what is", max_tokens=4)
                said.append((found.tokens, [e.score for e in found.evidence]))
        return said

    plainly = open_two(lambda: Graphs(lambda work, inputs: as_it_stands(work)))
    expected = [watch(stream, number) for number, stream in enumerate(plainly)]
    assert [watch(stream, number) for number, stream in enumerate(open_two())] == expected
    with ThreadPoolExecutor(2) as threads:  # two streams of one model at once
        assert list(threads.map(watch, open_two(), range(2))) == expected


def as_it_stands(work):
    """A recorder that records nothing."""
    return lambda inputs: work(*inputs)
