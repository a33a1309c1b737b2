"""The soak bench: what it compares, that it finds a leak, and that a stopped one says what there is."""

from __future__ import annotations

import itertools
import json
import mmap
from pathlib import Path

import pytest
import torch

from headrace.bench import soak
from headrace.bench.space import anonymous_bytes
from unit.tiny import objects, run, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


def filled(num: int, frames: int = 20_000) -> soak.Soaked:
    """Frames that take longer from 3,000 on, memory that grows by a byte per frame, questions that do not."""
    found = soak.Soaked(soak.Setting(frames=frames))
    for i in range(num):
        found.frame_ms.append(10.0 if i < found.setting.warm + found.setting.span else 12.0)
        found.frame_cpu_ms.append(5.0)
        found.anonymous.append(100_000 + i)
        if (i + 1) % found.setting.ask_every == 0:
            found.ttft_ms.append(7.0)
            found.ask_cpu_ms.append(3.0)
    return found


def test_stretches_are_those_of_the_goal():
    assert [(x.warm, x.span) for x in (soak.Setting(frames=n) for n in (20_000, 5000))] == [(2000, 1000)] * 2
    assert (soak.Setting(frames=50, ask_every=5).warm, soak.Setting(frames=50, ask_every=5).span) == (20, 10)


@pytest.mark.parametrize("num", [4000, 20_000])
def test_the_last_stretch_is_compared_with_the_first_behind_the_warm_up(num):
    found = filled(num).result(disk_bytes=3)
    assert found["frame_time_ratio"] == pytest.approx(1.2)
    assert found["frame_cpu_ratio"] == found["ttft_ratio"] == found["ask_cpu_ratio"] == 1.0
    assert found["rss_growth"] == pytest.approx((num - 2000 - 100) / 102_000, rel=0.01)
    assert (found["disk_bytes"], found["frames"]) == (3, num)


@pytest.mark.parametrize(
    ("grows", "slower", "flat", "says"),
    [
        (0.019, 1.09, True, "flat"),
        (-0.3, 0.5, True, "flat"),
        (0.03, 1.0, False, "not flat: memory +3.0 %, more than +2 %"),
        (0.0, 1.2, False, "not flat: processor time per frame x 1.200, more than x 1.1"),
        (
            0.03,
            1.2,
            False,
            "not flat: memory +3.0 %, more than +2 %; processor time per frame x 1.200, more than x 1.1",
        ),
    ],
)
def test_flat_is_what_keeps_to_the_goals(grows, slower, flat, says):
    """Time by the clock does not count: other programs stretch it."""
    from headrace.cli.soak import _lines

    found = filled(4000)
    for i in range(3000, 4000):
        found.anonymous[i], found.frame_cpu_ms[i], found.frame_ms[i] = round(102_050 * (1 + grows)), 5.0 * slower, 99.0
    result = found.result()
    assert result["flat"] is flat
    assert _lines(found, result)[-1] == says


def test_strict_exits_with_1_unless_flat(model, monkeypatch):
    common = ("bench", "soak", "--frames", "60", "--model", model, "-p", "recent:2")
    for growth, code in ((1e9, 0), (-1e9, 1)):
        monkeypatch.setattr(soak, "MEMORY_GROWTH", growth)
        monkeypatch.setattr(soak, "TIME_RATIO", 1e9)
        status, stdout, _ = run(*common, "--strict")
        assert (status, stdout.splitlines()[-1].startswith("not flat") == bool(code)) == (code, True)
        status, stdout, _ = run(*common, "--json")
        (found,) = objects(stdout)
        assert (status, found["flat"]) == (0, not code)


@pytest.mark.parametrize("num", [0, 1, 3999])
def test_too_few_frames_compare_nothing(num):
    found = filled(num).result()
    assert found["flat"] is None
    assert found["frames"] == num
    assert {found[name] for name in ("rss_growth", "frame_time_ratio", "ttft_ratio", "ask_cpu_ratio")} == {None}


def fresh_pages(num_bytes: int) -> mmap.mmap:
    """Memory that the process did not have before; an allocator may hand out what an earlier test gave back."""
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.write(b"\1" * num_bytes)
    return pages


def test_a_leak_shows(model):
    """A stream that keeps 256 KiB per frame for ever, against one that does not."""
    import headrace

    growth = []
    for leak in (False, True):
        stream, held = headrace.load(model).open("recent:2"), []
        if leak:
            stream.observe(lambda *_, held=held: held.append(fresh_pages(1 << 18)))
        found = soak.Soaked(soak.Setting(frames=200, ask_every=20))
        soak.soak(stream, found)
        growth.append(found.result()["rss_growth"] * found.anonymous[80])
    assert growth[1] > 15e6
    assert growth[0] < 8e6


def test_anonymous_memory_is_this_process():
    before = anonymous_bytes()
    with mmap.mmap(-1, 1 << 25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * len(block))
        assert 0.9 * len(block) < anonymous_bytes() - before < 2.5 * len(block)


def test_pictures_change_and_do_not_end():
    first = [frame.image for frame in itertools.islice(soak.pictures(), 90)]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(first))
    assert first[0].shape == (128, 128, 3)
    again = [frame.image for frame in itertools.islice(soak.pictures(), 90)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_memories_of_blocks_keep_a_number_of_them(monkeypatch):
    from headrace.methods.memories import recent

    plain = soak.soaked_pipeline("recent:3", ())
    assert plain.memory == recent.Recent(frames=3)
    monkeypatch.setattr(soak, "BLOCKS_FIELD", "turn_rows")  # stands in for max_blocks, which a memory may have
    assert soak.soaked_pipeline("recent:3", ()).memory.turn_rows == soak.MAX_BLOCKS
    assert soak.soaked_pipeline("recent:3", ["memory.turn_rows=7"]).memory.turn_rows == 7


def test_the_command_tells_and_keeps_its_result(model, tmp_path: Path):
    common = ("bench", "soak", "--frames", "60", "--model", model, "--json", "--save", str(tmp_path / "soak.json"))
    code, stdout, _ = run(*common, "-p", "streamingllm:60", "--state", str(tmp_path / "s"), "--checkpoint-every", "0")
    (found,) = objects(stdout)
    assert code == 0
    assert found["frames"] == 60
    assert (found["model"], found["weights"], found["device"], found["ask_every"]) == (model, "full", "cpu", 3)
    assert found["dtype"] in ("bfloat16", "float32")
    assert found["flat"] in (True, False)
    assert all(found[name] > 0 for name in ("frame_time_ratio", "ttft_ratio", "disk_bytes", "frame_ms"))
    assert abs(found["rss_growth"]) < 1
    assert json.loads((tmp_path / "soak.json").read_text()) | {"event": "result"} == found


def test_a_stopped_soak_says_what_there_is(model, tmp_path: Path, monkeypatch):
    def stopped():
        yield from itertools.islice(soak_pictures(), 50)
        raise KeyboardInterrupt

    soak_pictures = soak.pictures
    monkeypatch.setattr(soak, "pictures", stopped)
    common = ("bench", "soak", "--model", model, "-p", "recent:2", "--save", str(tmp_path / "soak.json"))
    for frames, word in (("60", "anonymous memory"), ("2000", "too few")):
        code, stdout, stderr = run(*common, "--frames", frames)
        assert code == 130
        assert f"stopped at frame 50 of {frames}" in stderr
        assert word in stdout
        assert json.loads((tmp_path / "soak.json").read_text())["frames"] == 50
