"""Save and resume: the same future, and one clear line for every folder that cannot be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import headrace
from headrace.engine import SavedStreamError, saving
from headrace.engine.folder import FORMAT, _apart, checksum_of
from headrace.engine.state import fork, pack, same, unpack
from headrace.types import Frame
from parity.models import QUESTION, frames, tiny
from unit.format_1 import save_as_format_1

PIPELINES = ["full", "recent:4", "streamingllm:40", "recent:3+uniform:2", "streamingllm:24+random:0.5"]
BOTH = pytest.mark.parametrize("clip", ["video", "frame"])


def opened(pipeline="full", *, clip="video", num=5, chunk=1):
    stream = tiny(clip, seed=1).engine.open(pipeline, chunk_frames=chunk)
    for frame in frames(num):
        stream.push(frame)
    return stream


def saved(folder: Path, **options) -> Path:
    opened(**options).save(folder)
    return folder


def resume(folder: Path, **options):
    return tiny(options.pop("clip", "video"), seed=options.pop("seed", 1)).engine.resume(folder, **options)


def refused(folder: Path, *named: str, **options) -> str:
    with pytest.raises(SavedStreamError) as raised:
        resume(folder, **options)
    line = str(raised.value)
    assert "\n" not in line
    for part in (str(folder), *named):
        assert part in line
    return line


@BOTH
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("num", "chunk"), [(0, 1), (1, 1), (12, 1), (11, 3)])
def test_a_resumed_stream_has_the_same_future(tmp_path, clip, pipeline, num, chunk):
    stream = opened(pipeline, clip=clip, num=num, chunk=chunk)
    if num:
        stream.ask("w3", max_tokens=3, remember=num == 12)
    stream.save(tmp_path)
    twin = resume(tmp_path, clip=clip)
    assert same(twin.state, stream.state)
    assert str(twin.pipeline) == str(stream.pipeline)
    assert twin.num_frames == num
    for frame in frames(5, first=num, seed=3):
        stream.push(frame)
        twin.push(frame)
        assert same(twin.state, stream.state)
        assert (twin.report is None) == (stream.report is None)
    options = {"max_tokens": 6, "temperature": 1.0, "seed": 4}
    for remember in (False, True, False):
        a, b = (s.ask(QUESTION, remember=remember, **options) for s in (stream, twin))
        assert (a.text, a.tokens, a.evidence, a.frames_seen) == (b.text, b.tokens, b.evidence, b.frames_seen)
    assert same(twin.state, stream.state)


def test_saving_changes_nothing(tmp_path):
    stream = opened()
    before = fork(stream.state)
    stream.save(tmp_path)
    assert same(stream.state, before)


@pytest.mark.parametrize("pipeline", ["rekv:4@memory.window=200", "video_xl_2:2"])
def test_streams_of_more_rows_than_a_table_chunk_are_saved(tmp_path, pipeline):
    """What is known of a block's rows is a view of a chunk that is written, too."""
    stream = headrace.load("nano").open(pipeline)
    for index in range(68):
        stream.push(Frame(index, float(index), torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)))
        if index >= 62:
            stream.save(tmp_path / "kept")
    stream.save(tmp_path / "fresh")
    for folder in ("kept", "fresh"):
        assert same(headrace.load("nano").resume(tmp_path / folder).state, stream.state)


def test_tensors_that_share_memory_are_written_apart():
    whole = torch.arange(12.0)
    found = _apart({"whole": whole, "again": whole, "part": whole[3:7], "none": whole[:0], "nothing": whole[:0]})
    assert {name: x.tolist() for name, x in found.items()} == {
        "whole": whole.tolist(),
        "again": whole.tolist(),
        "part": [3, 4, 5, 6],
        "none": [],
        "nothing": [],
    }
    assert found["whole"].data_ptr() == whole.data_ptr(), "what is alone is not copied"
    load(save(found))


def test_a_newer_stream_replaces_the_older(tmp_path):
    stream = opened()
    stream.save(tmp_path / "deep" / "folder")
    stream.push(frames(1, first=5)[0])
    stream.save(tmp_path / "deep" / "folder")
    assert resume(tmp_path / "deep" / "folder").num_frames == 6
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 2


def test_a_budget_holds_for_a_resumed_stream(tmp_path):
    twin = resume(saved(tmp_path, num=8), memory_mb=0.02)
    with pytest.raises(ValueError, match="memory budget"):
        twin.push(frames(1, first=8)[0])


@pytest.mark.parametrize("memory_mb", [0, -1])
def test_a_wrong_budget_is_named(tmp_path, memory_mb):
    with pytest.raises(ValueError, match=r"^memory_mb: "):
        resume(saved(tmp_path), memory_mb=memory_mb)


def test_no_folder_and_nothing_in_it(tmp_path):
    refused(tmp_path / "nowhere", "stream.json")
    refused(tmp_path, "stream.json")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file")


def test_a_file_stands_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file") as raised:
        opened().save(tmp_path / "file")
    assert "\n" not in str(raised.value)


def test_another_model(tmp_path):
    refused(saved(tmp_path), "weights", seed=2)
    refused(tmp_path, "weights", clip="frame", seed=2)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_folder_belongs_to_its_model_too(tmp_path, version):
    stream = opened(num=3)
    stream.save(tmp_path)
    manifest = json.loads((tmp_path / "stream.json").read_text())
    content = manifest["stream"]
    content["model"] = {"name": "x", "fingerprint": stream.spec.former_fingerprint}
    if version == 1:
        save_as_format_1(stream, tmp_path / "one")
        old = json.loads((tmp_path / "one" / "stream.json").read_text())
        old["stream"]["model"] = content["model"]
        manifest, content = old, old["stream"]
    path = tmp_path / "one" if version == 1 else tmp_path
    (path / "stream.json").write_text(json.dumps({**manifest, "format": version, "sha256": checksum_of(content)}))
    assert alike(resume(path), stream, at=3)
    refused(path, "weights", seed=2)


def test_a_folder_that_is_saved_to_meanwhile_is_read_again(tmp_path, monkeypatch):
    stream, reads = opened(num=3), iter(range(99))
    stream.save(tmp_path)
    real = saving._tensors

    def read(*args):
        if next(reads) == 0:
            stream.push(frames(4)[3])
            stream.save(tmp_path)  # the file that is about to be read goes
        return real(*args)

    monkeypatch.setattr(saving, "_tensors", read)
    assert resume(tmp_path).num_frames == 4


def test_another_type_of_numbers_is_named(tmp_path):
    path = saved(tmp_path)
    manifest = json.loads((path / "stream.json").read_text())
    stream = manifest["stream"]
    stream["model"] |= {"dtype": "bfloat16", "fingerprint": "0123"}
    (path / "stream.json").write_text(json.dumps({**manifest, "sha256": checksum_of(stream)}))
    refused(path, "was saved in bfloat16, this model is in float32; load it in bfloat16")


def test_another_format(tmp_path):
    manifest = json.loads((saved(tmp_path) / "stream.json").read_text())
    for version in (0, FORMAT + 1, 99, "1", "2", None, True, 2.0):
        (tmp_path / "stream.json").write_text(json.dumps({**manifest, "format": version}))
        line = refused(tmp_path, "format", str(version))
        assert ("newer" in line) == (version in (FORMAT + 1, 99))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_folder_of_format_1_goes_on(tmp_path, pipeline):
    """Saved by a version before rows had files of their own; the next save makes a folder of today of it."""
    stream = opened(pipeline, num=20)
    save_as_format_1(stream, tmp_path / "s")
    twin = resume(tmp_path / "s")
    assert alike(twin, stream, at=20)
    twin.save(tmp_path / "s")
    assert json.loads((tmp_path / "s" / "stream.json").read_text())["format"] == FORMAT
    assert alike(resume(tmp_path / "s"), stream, at=25)


def alike(twin, stream, *, at: int) -> bool:
    """Whether two streams answer alike, now and five frames on."""
    found = []
    for one in (twin, stream):
        copy = one.fork()
        answers = [copy.ask(QUESTION, max_tokens=4, evidence=0).tokens]
        for frame in frames(5, first=at, seed=3):
            copy.push(frame)
        found.append((*answers, copy.ask(QUESTION, max_tokens=4, evidence=0).tokens, copy.num_frames))
    return found[0] == found[1]


def test_tensors_that_are_damaged_cut_off_or_gone(tmp_path):
    path = next(saved(tmp_path).glob("*.safetensors"))
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data[:100], data[:500] + b"\x01" + data[501:], data + b"x"):
        path.write_bytes(damaged)
        refused(tmp_path, path.name, "damaged")
    path.unlink()
    refused(tmp_path, path.name, "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "{}", '{"format": 1}', "\udcff"])
def test_a_manifest_that_is_none(tmp_path, text):
    (saved(tmp_path) / "stream.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(tmp_path, "stream.json")


def test_any_changed_byte_of_the_manifest_is_found(tmp_path):
    path = saved(tmp_path, num=2) / "stream.json"
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 150)):
        if data[at : at + 1].isspace():
            continue
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(tmp_path)


def test_a_state_that_names_another_class_is_refused():
    spec = tiny(seed=1).engine.backbone.spec
    for kind in (
        "os:system",
        "headrace.engine.state:pack",
        "headrace.engine.folder:os",
        "headracex:a",
        "headrace.no:a",
    ):
        for tree in ({"class": kind, "fields": {}}, {"packed": kind, "tree": None}):
            with pytest.raises(ValueError, match="no state") as raised:
                unpack(tree, {}, spec)
            assert kind in str(raised.value)


def test_a_copied_folder_is_as_good(tmp_path):
    shutil.copytree(saved(tmp_path / "a"), tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    assert resume(tmp_path / "b").num_frames == 5


# -- states ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stranger:
    """Stands in no state of headrace."""

    value: Any


def through_json(value: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(pack(value, tensors)))
    return unpack(tree, tensors, tiny(seed=1).engine.backbone.spec)


VALUES = [
    None,
    True,
    3,
    -0.1,
    float("inf"),
    "text",
    (),
    (1, (2.5, "x", None)),
    {},
    {"a": 1, "tensor": 2, "class": (3,)},
    {1: "a", 2: {3: ()}, "1": "b"},
    {True: 1},
]


@pytest.mark.parametrize("value", VALUES)
def test_plain_values_survive(value):
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, dict):
        assert [type(key) for key in back] == [type(key) for key in value]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4).bfloat16(),
        torch.randn(3, 4).t(),
        torch.empty(0, 5),
        torch.tensor(7),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), float("inf")]),
        torch.arange(5, dtype=torch.int8),
        torch.arange(6.0, dtype=torch.float64)[::2],
    ],
)
def test_tensors_survive(tensor):
    back = through_json({"x": (tensor, tensor)})
    for part in back["x"]:
        assert part.dtype == tensor.dtype
        assert torch.equal(part.nan_to_num(5.0), tensor.nan_to_num(5.0))


def test_frames_survive():
    frame = Frame(3, 1.5, torch.zeros(2, 3, 3, dtype=torch.uint8), gap=True)
    back = through_json((frame,))[0]
    assert (back.index, back.time_s, back.gap) == (3, 1.5, True)
    assert torch.equal(back.image, frame.image)


@pytest.mark.parametrize("value", [[1], {1, 2}, object(), b"x", 1j, {(1, 2): 3}, {"a": [1]}])
def test_what_may_not_stand_in_a_state(value):
    with pytest.raises(TypeError, match="may not stand in a state"):
        pack(value, {})


def test_same_looks_at_every_bit():
    def state(x: float, dtype=torch.float32):
        return {"a": (torch.tensor([1.0, x], dtype=dtype), 1)}

    assert same(state(2.0), state(2.0))
    assert not same(state(2.0), state(2.0000002))
    assert not same(state(2.0), state(2.0, torch.float64))
    assert not same(state(2.0), {**state(2.0), "b": None})
    assert not same((1,), (1, 2))
    assert not same((torch.zeros(2, 3),), (torch.zeros(3, 2),))
