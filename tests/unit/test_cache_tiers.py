"""Sealed blocks: shared by forks, moved to disk and back unchanged, gone with their last holder."""

from __future__ import annotations

import gc
import json
import logging
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from safetensors.torch import load, save

from headrace.cache import Disk, KVCache, Limits, RowView, Sealed, Shelf, VectorIndex, cut_blocks
from headrace.cache.disk import LOCK
from headrace.cache.sealed import Held
from headrace.engine.state import pack, same, unpack
from headrace.ops.narrow import narrow, widen
from headrace.types import Span
from reference.naive.decoder import spec
from unit.test_cache_machine import layer_span, segment

LAYERS, HEADS, WIDTH = 2, 2, 2


def notes(num: int, start: int) -> RowView:
    """What is known of so many rows."""
    rows = segment(num, 1, start, 0)
    return RowView.alone(start, rows.kind, rows.frame, rows.time_s, rows.ids)


def sealed(start: int, num: int, *, lost: int = 0) -> Sealed:
    """A block whose rows say whose they are; layer 1 has lost its first ``lost`` rows."""
    rows = list(range(num))
    layers = [layer_span(rows, start, 0, False), layer_span(rows[lost:], start, 1, False)]
    return Sealed.seal(layers, notes(num, start), 0)


def told(block: Sealed) -> list[Any]:
    """Everything a block says."""
    pairs = [[x.tolist() for x in block.layer(layer)] for layer in range(LAYERS)]
    rows = [(x + block.first_row).tolist() for x in block.offsets]
    return [block.first_row, block.stop_row, pairs, rows, block.notes.frame.tolist(), block.notes.ids.tolist()]


def files(disk: Disk) -> int:
    return len(list(disk.folder.glob("*.kv")))


class Shelves(RuleBasedStateMachine):
    """Shelves that fork from one and share a disk, each with a twin of python lists."""

    shelves = Bundle("shelves")

    @initialize(target=shelves, limit=st.sampled_from([None, 150, 400]))
    def start(self, limit: int | None) -> int:
        self.root = tempfile.TemporaryDirectory()
        self.disk = Disk(self.root.name, limit_bytes=limit)
        self.limit, self.row = limit, 0
        index = VectorIndex.empty(LAYERS, 1, torch.device("cpu"))
        self.life: list[tuple[Shelf, VectorIndex, dict[int, Any]]] = [(Shelf(disk=self.disk), index, {})]
        return 0

    @rule(at=shelves, num=st.integers(1, 5), lost=st.integers(0, 5))
    def add(self, at: int, num: int, lost: int) -> None:
        shelf, index, twin = self.life[at]
        block = sealed(self.row, num, lost=min(lost, num))
        self.row += num + lost % 2
        twin = {**twin, shelf.next_id: told(block)}
        index = index.add(shelf.next_id, torch.full((LAYERS, 1), float(shelf.next_id)))
        self.life[at] = (shelf.add(block), index, twin)

    @rule(at=shelves, data=st.data())
    def drop(self, at: int, data: Any) -> None:
        shelf, index, twin = self.life[at]
        names = data.draw(st.lists(st.sampled_from(sorted(twin)), unique=True)) if twin else []
        ids = torch.tensor(names, dtype=torch.int64)
        left = {name: what for name, what in twin.items() if name not in names}
        self.life[at] = (shelf.drop(ids), index.drop(ids), left)

    @rule(at=shelves, most=st.integers(1, 9), held=st.one_of(st.none(), st.integers(0, 5)))
    def settle(self, at: int, most: int, held: int | None) -> None:
        shelf, index, twin = self.life[at]
        shelf, gone = shelf.settled(Limits(most, held), self.row)
        twin = {name: what for name, what in twin.items() if name not in gone.tolist()}
        assert len(shelf) <= most
        assert held is None or sum(block.in_memory for block in shelf.blocks) <= held
        if held is None or self.limit is None:
            assert len(shelf) == min(most, len(twin) + len(gone)), "what has room stays"
        filed = [] if held is None else shelf.blocks[: max(len(shelf) - held, 0)]
        assert sum(block.filed_bytes for block in filed) <= (self.limit or 10**9), "whatever forks hold beside it"
        self.life[at] = (shelf, index.drop(gone), twin)

    @rule(target=shelves, at=shelves)
    def fork(self, at: int) -> int:
        shelf, index, twin = self.life[at]
        self.life.append((shelf.fork(), index.fork(), dict(twin)))
        return len(self.life) - 1

    @rule(at=shelves)
    def change_an_alias(self, at: int) -> None:
        """What is done to an alias of the index and thrown away does not show."""
        _, index, _ = self.life[at]
        other = index.alias().add(10_000, torch.full((LAYERS, 1), -1.0))
        other.drop(other.ids[:1]).add(10_001, torch.full((LAYERS, 1), -2.0)).check()

    @rule(at=shelves)
    def save_and_load(self, at: int) -> None:
        shelf, index, twin = self.life[at]
        tensors: dict[str, torch.Tensor] = {}
        text = json.dumps(pack((shelf, index), tensors))
        model = spec()
        again, found = unpack(json.loads(text), load(save(tensors)), model)
        assert same((again, found), (shelf, index))
        assert [block.key for block in again.blocks] == [block.key for block in shelf.blocks]
        self.life[at] = (replace(again, disk=self.disk), found, twin)

    @invariant()
    def equal_the_lists(self) -> None:
        for shelf, index, twin in getattr(self, "life", []):
            shelf.check()
            index.check()
            assert shelf.ids.tolist() == index.ids.tolist() == sorted(twin)
            assert [told(block) for block in shelf.take(shelf.find(shelf.ids))] == [twin[x] for x in sorted(twin)]
            assert index.vectors(1).flatten().tolist() == sorted(twin)

    @invariant()
    def files_are_those_of_the_blocks(self) -> None:
        held = {id(b): b for shelf, _, _ in getattr(self, "life", []) for b in shelf.blocks if not b.in_memory}
        if hasattr(self, "disk"):
            assert files(self.disk) == len(held)
            assert self.disk.num_bytes == sum(block.filed_bytes for block in held.values())

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.life = []
            del self.disk
            assert list(Path(self.root.name).iterdir()) == [], "the folder goes with its last holder"
            self.root.cleanup()


Shelves.TestCase.settings = settings(settings.get_profile("dev"), max_examples=20, stateful_step_count=12)
TestShelves = Shelves.TestCase


def filled(num: int, disk: Disk | None = None) -> Shelf:
    shelf = Shelf(disk=disk)
    for i in range(num):
        shelf = shelf.add(sealed(4 * i, 4))
    return shelf


def test_a_parents_eviction_leaves_the_forks_blocks(tmp_path: Path):
    disk = Disk(tmp_path)
    parent, _ = filled(6, disk).settled(Limits(6, 2), 24)
    assert [block.in_memory for block in parent.blocks] == [False] * 4 + [True] * 2
    twin, want = parent.fork(), [told(block) for block in parent.blocks]
    parent, gone = parent.settled(Limits(1), 24)
    assert gone.tolist() == [0, 1, 2, 3, 4]
    assert files(disk) == 4
    assert [told(block) for block in twin.blocks] == want
    del twin
    assert files(disk) == 0


def test_an_open_question_holds_no_file_open(tmp_path: Path):
    """It may map a thousand blocks, and a process may have a thousand files."""
    shelf, _ = filled(40, Disk(tmp_path)).settled(Limits(40, 0), 160)
    before = len(os.listdir("/proc/self/fd"))
    held = [block.open() for block in shelf.blocks]
    for block in shelf.blocks:
        block.fetch(1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(held) == 40


def test_a_reader_outlives_the_file(tmp_path: Path):
    disk = Disk(tmp_path)
    shelf, _ = filled(3, disk).settled(Limits(3, 0), 12)
    want = told(shelf.blocks[0])
    reader = shelf.blocks[0].open()
    shelf, _ = shelf.settled(Limits(1, 0), 12)
    assert files(disk) == 1
    assert reader.parts[0].tolist()[:2] == want[2][0][0][0][0]


def test_a_disk_at_its_limit_loses_its_oldest(tmp_path: Path):
    size = 4 * LAYERS * HEADS * WIDTH * 2 * 4
    disk = Disk(tmp_path, limit_bytes=3 * size)
    shelf, gone = filled(8, disk).settled(Limits(100, 2), 32)
    assert gone.tolist() == [0, 1, 2]
    assert (shelf.ids.tolist(), shelf.disk_bytes()) == ([3, 4, 5, 6, 7], 3 * size)
    shelf, gone = shelf.add(sealed(40, 4)).settled(Limits(100, 2), 44)
    assert gone.tolist() == [3]
    assert [block.in_memory for block in shelf.blocks] == [False, False, False, True, True]


def test_a_disk_that_takes_no_more_is_named_once_and_the_stream_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    disk = Disk(tmp_path)
    shelf, _ = filled(3, disk).settled(Limits(100, 2), 12)
    before = told(shelf.blocks[0])

    def full(self: Path, mode: str = "r", *args: Any, **values: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with caplog.at_level(logging.WARNING, logger="headrace.cache"):
        for i in range(3, 7):
            shelf, _ = shelf.add(sealed(4 * i, 4)).settled(Limits(100, 2), 4 * i + 4)
    assert [record.getMessage() for record in caplog.records] == [
        f"disk: {disk.folder} takes no more (No space left on device); the stream goes on and forgets what does not fit"
    ]
    assert shelf.ids.tolist() == [0, 5, 6]
    monkeypatch.undo()
    assert told(shelf.blocks[0]) == before
    shelf, gone = shelf.add(sealed(40, 4)).settled(Limits(100, 2), 44)
    assert (shelf.ids.tolist(), gone.tolist()) == ([0, 5, 6, 7], []), "a disk that takes again is used again"


def test_what_a_killed_process_left_is_cleared(tmp_path: Path):
    left = tmp_path / "stream-left"
    left.mkdir()
    (left / LOCK).touch()
    (left / "1.kv").write_bytes(b"old")
    other = Disk(tmp_path)
    assert not left.exists()
    mine = Disk(tmp_path)
    assert other.folder.exists(), "a stream that runs keeps its folder"
    del other
    assert list(tmp_path.iterdir()) == [mine.folder]


def forked(work: Any) -> int:
    """Begin work in a process that is forked off; it ends with 0 where the work is true."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_process_that_is_forked_off_leaves_the_folder_alone(tmp_path: Path):
    disk = Disk(tmp_path)
    blocks = [sealed(0, 4)]
    before = told(blocks[0])
    assert blocks[0].file(disk)

    def end() -> bool:
        """As an interpreter ends."""
        read = told(blocks[0]) == before
        blocks.clear()
        disk._end()
        return read

    assert status_of(forked(end)) == 0
    assert told(blocks[0]) == before
    assert files(disk) == 1
    disk._end()
    assert not disk.folder.exists()


def test_two_processes_do_not_write_to_one_file(tmp_path: Path):
    disk, block = Disk(tmp_path), sealed(0, 4)
    before, (told_by, tell) = told(block), os.pipe()

    def write() -> bool:
        other = sealed(40, 4)
        wanted = told(other)
        assert other.file(disk)
        os.write(tell, b" ")
        time.sleep(0.2)
        read = told(other) == wanted
        del other
        return read and files(disk) == 1

    pid = forked(write)
    os.read(told_by, 1)
    assert block.file(disk)
    assert status_of(pid) == 0
    assert told(block) == before
    assert files(disk) == 1
    for handle in (told_by, tell):
        os.close(handle)


def test_the_collector_may_come_while_a_disk_is_locked(tmp_path: Path):
    """It finds blocks whose files go, in the thread that holds the lock."""
    disk = Disk(tmp_path)
    block = sealed(0, 4)
    assert block.file(disk)

    class Collecting:
        def __enter__(self, lock=disk._lock):
            lock.acquire()
            gc.collect()

        def __exit__(self, *_, lock=disk._lock):
            lock.release()

    circle: list[Any] = [block]
    circle.append(circle)
    disk._lock = Collecting()
    del block, circle
    writer = threading.Thread(target=lambda: disk.write((torch.zeros(3),)), daemon=True)
    writer.start()
    writer.join(20)
    assert not writer.is_alive(), "a deadlock"
    assert files(disk) == 0
    assert disk.num_bytes == 0


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"disk: .*file.* cannot be written to"):
        Disk(tmp_path / "file")


def test_a_block_is_checked_once_in_every_place(tmp_path: Path):
    """What is broken is found wherever it lies; what was found whole is not read again."""
    offsets, disk = (torch.arange(4), torch.tensor([0, 0])), Disk(tmp_path)
    good = sealed(0, 4)
    broken = Sealed(0, good.notes, offsets, (torch.zeros(48),), (HEADS, WIDTH), torch.float32)
    for _ in range(2):
        with pytest.raises(AssertionError, match="rows do not ascend"):
            broken.check()
    good.check()
    assert good.file(disk)
    good.check()
    (path,) = disk.folder.glob("*.kv")
    path.unlink()
    good.check()
    other = sealed(4, 4)
    other.check()
    assert other.file(disk)
    (path,) = disk.folder.glob("*.kv")
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read back"):
        other.check()


def test_a_file_that_is_gone_or_cut_is_named(tmp_path: Path):
    disk = Disk(tmp_path)
    shelf, _ = filled(1, disk).settled(Limits(3, 0), 12)
    (path,) = disk.folder.glob("*.kv")
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name}: a block of the stream's past cannot be read back"):
        shelf.blocks[0].layer(0)


@pytest.mark.parametrize("small", [False, True], ids=["whole", "8 bits"])
def test_what_is_read_ahead_is_what_a_layer_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool):
    """With everything else in the file overwritten, the layer reads as before, and the other one does not."""
    disk, wanted = Disk(tmp_path), list[tuple[int, int]]()
    block = sealed(0, 5, lost=2).narrowed() if small else sealed(0, 5, lost=2)
    before = [[x.clone() for x in block.layer(layer)] for layer in range(LAYERS)]
    assert block.file(disk)
    (path,) = disk.folder.glob("*.kv")
    data = path.read_bytes()
    monkeypatch.setattr(Held, "ahead", lambda self, start, stop: wanted.append((start, stop)))
    for layer in range(LAYERS):
        wanted.clear()
        block.fetch(layer)
        inside = {at for start, stop in wanted for at in range(start, stop)}
        path.write_bytes(bytes(x if at in inside else 0 for at, x in enumerate(data)))
        assert len(inside) < len(data)
        assert all(torch.equal(a, b) for a, b in zip(block.layer(layer), before[layer], strict=True))
        assert not torch.equal(block.layer(1 - layer)[0], before[1 - layer][0])
        path.write_bytes(data)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(0, 9),
    axis=st.sampled_from([1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_eight_bits_are_within_half_a_scale(seed: int, rows: int, axis: int, dtype: torch.dtype):
    x = torch.randn(2, rows, 8, generator=torch.Generator().manual_seed(seed)).to(dtype) * 10.0 ** (seed % 5 - 2)
    codes, scale = narrow(x, axis)
    assert codes.dtype == torch.int8
    assert bool(((widen(codes, scale, torch.float32) - x.float()).abs() <= scale * 0.5001).all())
    assert widen(codes, scale, dtype).dtype == dtype


def test_a_narrow_block_reads_like_the_whole_one_within_its_rounding(tmp_path: Path):
    """Over memory and disk; a fork that kept the whole block still has it; the error is about half a hundredth."""
    generator, disk = torch.Generator().manual_seed(1), Disk(tmp_path)
    model = spec()
    layers = []
    for num in (20, 14):
        keys, values = (torch.randn(model.kv_heads, num, model.head_dim, generator=generator) for _ in range(2))
        rows = torch.arange(20)[20 - num :]
        layers.append(type(layer_span([0], 0, 0, False))(keys, values, None, rows))
    whole = Shelf(disk=disk).add(Sealed.seal(layers, notes(20, 0), 0))
    small, _ = whole.settled(Limits(5, None, True), 20)
    filed, _ = whole.settled(Limits(5, 0, True), 20)
    assert small.blocks[0].held_bytes < 0.6 * whole.blocks[0].held_bytes
    assert small.blocks[0].key == filed.blocks[0].key
    assert small.blocks[0].key != whole.blocks[0].key
    for layer, part in enumerate(layers):
        for side, x in enumerate((part.keys, part.values)):
            assert torch.equal(whole.blocks[0].layer(layer)[side], x)
            error = filed.blocks[0].layer(layer)[side] - x
            assert 0 < float(error.norm() / x.norm()) < 0.01
            assert torch.equal(filed.blocks[0].layer(layer)[side], small.blocks[0].layer(layer)[side])


@given(
    frames=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=5),
    skip=st.integers(0, 6),
    most=st.integers(1, 6),
)
def test_blocks_are_frames_with_the_text_before_them(frames: list[tuple[int, int]], skip: int, most: int):
    """Frames of any length with text between them: every row belongs to one block, no block has two frames."""
    rows = [f for i, (shown, text) in enumerate(frames) for f in [-1] * text + [i] * shown]
    rows = rows or [-1]
    seg = segment(len(rows), 1, 0, 0)
    seg = type(seg)(**{**{n: getattr(seg, n) for n in seg.__dataclass_fields__}, "frame": torch.tensor(rows)})
    skip = min(skip, len(rows))
    blocks = cut_blocks(seg, skip, most)
    assert [row for start, stop in blocks for row in range(start, stop)] == list(range(skip, len(rows)))
    assert all(0 < stop - start <= most for start, stop in blocks)
    for start, stop in blocks:
        assert len(set(rows[start:stop]) - {-1}) <= 1


def test_rows_are_gathered_across_blocks_of_a_cache():
    model = spec()
    cache = KVCache(model, block_rows=4)
    for i in range(3):
        seg = segment(5, 1, 5 * i, 0)
        parts = []
        for layer, rows in enumerate((range(5), (0, 2, 4))):
            x = torch.full((model.kv_heads, len(rows), model.head_dim), float(layer))
            x += (torch.tensor(rows) + 5 * i).view(1, -1, 1)
            parts.append(type(layer_span([0], 0, 0, False))(x, x + 100, None, torch.tensor(rows)))
        cache.append(Span(seg, tuple(parts)))
    block = Sealed.gather(cache, 3, 11)
    block.check()
    assert (block.first_row, block.stop_row) == (3, 11)
    assert block.layer(0)[0][0, :, 0].tolist() == [float(x) for x in range(3, 11)]
    assert block.layer(1)[1][0, :, 0].tolist() == [105.0, 106.0, 108.0, 110.0, 111.0]
    assert (block.offsets[1] + 3).tolist() == [4, 5, 7, 9, 10]
