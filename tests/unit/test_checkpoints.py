"""Checkpoints: only what is new is written, a fault at any point loses nothing, and a live stream goes on."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import logging
import os
import threading
import time
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cache import Written
from headrace.cache.disk import Disk as Tier
from headrace.engine import SavedStreamError, folder
from headrace.engine.checkpoints import LATEST
from headrace.engine.state import fork, pack, same
from parity.models import QUESTION, frames, tiny

WINDOW = "streamingllm:200"  # blocks of 64 rows, 5 rows per frame


def opened(pipeline=WINDOW, *, num=0):
    return pushed(tiny("frame", seed=1).engine.open(pipeline), num)


def pushed(stream, num: int):
    for frame in frames(num, first=stream.num_frames):
        stream.push(frame)
    return stream


def resume(path: Path):
    return tiny("frame", seed=1).engine.resume(path)


def names(path: Path, kind: str = "") -> set[str]:
    return {file.name for file in path.iterdir() if file.name.startswith(kind)}


class Disk:
    """Stands in for the functions of ``folder`` that touch the disk: counts bytes, and fails at one point.

    Args:
        fail_at: Number of the operation that fails, None for none.
        error: What it fails with.
    """

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.fail_at, self.error = fail_at, error
        self.num_bytes = 0
        self._count = itertools.count()

    def point(self) -> None:
        """Fail, if it is time to."""
        if next(self._count) == self.fail_at:
            assert self.error is not None
            raise self.error

    def install(self, patch: pytest.MonkeyPatch) -> Disk:
        """Put it in place."""
        put, sync, replace, unlink = folder._put, folder._sync, os.replace, os.unlink

        def faulty_put(path: Path, data: bytes) -> None:
            self.point()  # cannot be opened
            path.write_bytes(data[: len(data) // 2])
            self.point()  # half of it is there
            put(path, data)
            self.num_bytes += len(data)
            self.point()  # it cannot be flushed

        def before(function):
            def called(*args) -> None:
                self.point()
                function(*args)

            return called

        patch.setattr(folder, "_put", faulty_put)
        patch.setattr(folder, "_sync", before(sync))
        patch.setattr(folder.os, "replace", before(replace))
        patch.setattr(folder.os, "unlink", before(unlink))
        return self


class Killed(BaseException):
    """Nothing runs after it, as after a SIGKILL."""


FAULTS = {
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "read-only": OSError(errno.EROFS, os.strerror(errno.EROFS)),
    "broken": OSError(errno.EIO, os.strerror(errno.EIO)),
    "killed": Killed(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_point_leaves_the_old_stream_or_the_new_one(tmp_path, monkeypatch, fault):
    early = opened(num=16)
    late = pushed(early.fork(), 14)
    for point in itertools.count():
        path = tmp_path / str(point)
        stream = early.fork()
        stream.save(path)
        old, before = fork(stream.state), names(path)
        stream._state = fork(late.state)  # the same blocks as if the frames had been pushed here
        with monkeypatch.context() as patch:
            disk = Disk(point, FAULTS[fault]).install(patch)
            try:
                stream.save(path)
                failed = ""
            except (SavedStreamError, Killed) as error:
                failed = str(error) or "killed"
            done = next(disk._count) <= point
        back = resume(path)
        if failed:
            assert same(back.state, old) or same(back.state, stream.state)
        else:
            assert same(back.state, stream.state)
        if failed and fault != "killed":
            assert failed == f"{path}: cannot be written to ({FAULTS[fault].strerror})"
            if same(back.state, old):
                assert {name for name in names(path) if not name.endswith(".part")} == before
        stream.save(path)
        assert same(resume(path).state, stream.state)
        assert names(path) == set(manifest(path)["files"]) | {"stream.json"}
        if done:
            break
    assert point > 10


def manifest(path: Path) -> dict:
    return json.loads((path / "stream.json").read_text())["stream"]


def test_rows_are_written_once(tmp_path):
    """A file of rows that is still used is not touched again, by the stream or by one resumed from the folder."""
    stream = opened(num=20)
    stream.save(tmp_path)
    seen = {name: (tmp_path / name).stat().st_ino for name in names(tmp_path, "rows")}
    assert seen
    for again in (stream, resume(tmp_path)):
        pushed(again, 4).save(tmp_path)
        kept = {name: (tmp_path / name).stat().st_ino for name in names(tmp_path, "rows")}
        assert seen.items() <= kept.items()
        assert same(resume(tmp_path).state, again.state)


def test_a_save_costs_the_same_however_long_the_stream_is(tmp_path, monkeypatch):
    """Rows of the past are not written again: in a memory that forgets nothing, the tenth save is like the second."""
    stream, costs = opened("streamingllm:4000"), []  # first: a model that is made anew unlinks files
    disk = Disk().install(monkeypatch)
    stream._state.memory.window.block_rows = 64
    monkeypatch.setattr(type(stream.pipeline.memory), "_block_rows", 64)
    for _ in range(10):
        pushed(stream, 26)  # two blocks
        before = disk.num_bytes
        stream.save(tmp_path)
        costs.append(disk.num_bytes - before)
    held = sum((tmp_path / name).stat().st_size for name in names(tmp_path))
    assert held > 4 * max(costs[1:])
    assert max(costs[1:]) < 1.5 * min(costs[1:])


def test_files_that_are_mostly_forgotten_are_written_anew(tmp_path):
    """The window moves on: what has left it does not stay on the disk for ever."""
    stream, sizes = opened(), []
    for _ in range(20):
        pushed(stream, 9).save(tmp_path)
        sizes.append(sum((tmp_path / name).stat().st_size for name in names(tmp_path)))
        assert same(resume(tmp_path).state, stream.state)
    held = stream.pipeline.memory.num_bytes(stream.state.memory)
    assert max(sizes[8:]) < 4 * held


def test_another_stream_saved_to_the_folder_in_between(tmp_path):
    """Each writes all it needs: the other has removed its files."""
    one, other = opened(num=30), opened("full", num=5)
    for _ in range(2):
        for stream in (one, other):
            stream.save(tmp_path)
            assert same(resume(tmp_path).state, stream.state)


@given(st.lists(st.sampled_from(["push", "save", "fork", "resume", "ask", "spoil"]), min_size=3, max_size=14))
def test_whatever_happens_a_saved_stream_is_the_stream(tmp_path_factory, deeds):
    path = tmp_path_factory.mktemp("s")
    stream = opened("streamingllm:100", num=13)
    for deed in (*deeds, "save", "resume"):
        if deed == "push":
            pushed(stream, 7)
        elif deed == "save":
            stream.save(path)
        elif deed == "fork":
            stream = stream.fork()
        elif deed == "ask":
            stream.ask(QUESTION, max_tokens=2, remember=True)
        elif deed == "spoil":
            for name in sorted(names(path, "rows"))[:1] if path.is_dir() else ():
                (path / name).unlink()
        else:
            stream.save(path)
            back = resume(path)
            assert same(back.state, stream.state)
            stream = back


# -- files that were damaged later -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "state", "stream"])
@pytest.mark.parametrize("damage", ["flipped", "torn", "empty", "longer", "gone"])
def test_a_damaged_file_is_named(tmp_path, kind, damage):
    opened(num=30).save(tmp_path)
    path = tmp_path / sorted(names(tmp_path, kind))[0]
    data = path.read_bytes()
    at = 2 * len(data) // 3
    new = {
        "flipped": data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
        "torn": data[:at],
        "empty": b"",
        "longer": data + b"\0",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(new[damage])
    with pytest.raises(SavedStreamError) as raised:
        resume(tmp_path)
    assert "\n" not in str(raised.value)
    assert path.name in str(raised.value)


def test_a_manifest_may_not_reach_outside(tmp_path):
    stream = opened(num=2)
    stream.save(tmp_path / "s")
    found = manifest(tmp_path / "s")
    (tmp_path / "out.safetensors").write_bytes(b"x")
    found["files"]["../out.safetensors"] = "0"
    text = {"format": 2, "sha256": folder.checksum_of(found), "stream": found}
    (tmp_path / "s" / "stream.json").write_text(json.dumps(text))
    with pytest.raises(SavedStreamError, match="no file of this folder"):
        resume(tmp_path / "s")


# -- checkpoints of a live stream --------------------------------------------------------------------------------------


def test_a_checkpointed_stream_is_what_it_would_have_been(tmp_path):
    alone, stream = opened(), opened()
    with stream.checkpoint(tmp_path, every_s=0) as checkpoints:
        for frame in frames(30):
            alone.push(frame)
            stream.push(frame)
            checkpoints.wait()
            assert same(resume(tmp_path).state, alone.state)
        assert checkpoints.num_saved == 30
        assert checkpoints.error is None
        assert checkpoints.write_ms >= checkpoints.stall_ms > 0
    assert same(resume(tmp_path).state, stream.state)
    pushed(stream, 1)
    assert resume(tmp_path).num_frames == 30


def test_it_is_saved_when_it_is_time_to(tmp_path):
    now, stream = [0.0], opened()
    with folder_of(stream, tmp_path, every_s=10, clock=lambda: now[0]) as checkpoints:
        for number in range(1, 31):
            now[0] = float(number)
            pushed(stream, 1)
            checkpoints.wait()
            assert checkpoints.num_saved == number // 10
    assert checkpoints.num_saved == 4


def folder_of(stream, path: Path, **options):
    """A checkpointer with a clock of the test's."""
    from headrace.engine.checkpoints import Checkpointer

    made = Checkpointer(lambda: stream._snapshot(None), stream._keeping.folder(path), **options)
    return stream._keeping.begin(made)


def test_a_live_stream_goes_on_when_it_cannot_be_saved(tmp_path, monkeypatch, caplog):
    told: list[str] = []
    stream, alone = opened(num=3), opened(num=3)
    checkpoints = stream.checkpoint(tmp_path, every_s=0, noted=told.append)
    pushed(stream, 1)
    checkpoints.wait()
    old = fork(stream.state)
    with monkeypatch.context() as patch:
        for _ in range(3):
            Disk(0, FAULTS["full"]).install(patch)
            pushed(stream, 1)
            checkpoints.wait()
            assert same(resume(tmp_path).state, old)
    assert told == [
        f"{tmp_path}: cannot be written to (No space left on device); the stream goes on, and the next checkpoint will"
        " try again"
    ]
    assert str(checkpoints.error) in told[0]
    pushed(stream, 1)
    checkpoints.wait()
    assert told[1:] == [f"{tmp_path}: can be written to again; the stream is saved"]
    assert checkpoints.error is None
    assert same(resume(tmp_path).state, stream.state)
    assert same(stream.state, pushed(alone, 5).state)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "headrace.engine"):
        checkpoints = stream.checkpoint(tmp_path, every_s=0)
        Disk(0, FAULTS["full"]).install(patch)
        pushed(stream, 1)
        checkpoints.wait()
        Disk(0, FAULTS["full"]).install(patch)
        with pytest.raises(SavedStreamError, match="No space left"):
            checkpoints.close()
    assert len(caplog.records) == 1


def test_what_leaves_the_block_decides_what_is_saved(tmp_path):
    stream = opened()
    for error, num in ((ValueError, 4), (KeyboardInterrupt, 4)):  # an interrupt may come in the middle of a step
        with pytest.raises(error), stream.checkpoint(tmp_path, every_s=100):
            leave(pushed(stream, 4), error)
        assert resume(tmp_path).num_frames == num


def leave(_, error: type[BaseException]) -> None:
    raise error


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SavedStreamError, match="file"):
        opened().checkpoint(tmp_path / "file" / "s")
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="checkpoint every"):
            opened().checkpoint(tmp_path / "s", every_s=wrong)


def test_a_governed_stream_goes_on_with_what_it_was_opened_with(tmp_path):
    stream = opened("recent:4+uniform:4")
    with stream.checkpoint(tmp_path, every_s=0, pipeline=stream.pipeline) as checkpoints:
        stream.tune(compressor={"keep": 2})
        pushed(stream, 2)
        checkpoints.wait()
        assert resume(tmp_path).pipeline.compressor.keep == 4


def test_rows_with_an_owner_are_not_copied():
    """What a snapshot holds of the past are views: taking it does not take longer the longer the stream is."""
    stream = opened(num=30)
    tensors, written = {}, []
    pack(stream.state, tensors, written)
    blocks = {id(run.block) for layer in range(3) for run in stream.state.memory.window.runs(layer)}
    assert len(written) > 3
    for rows in written:
        assert isinstance(rows, Written)
        assert id(rows.owner) in blocks
        assert rows.tensors["keys"].untyped_storage().data_ptr() == rows.owner.keys.untyped_storage().data_ptr()


@pytest.mark.parametrize(("text", "setting"), [("rekv:3", "narrow=False"), ("rekv:3", "narrow=True"), ("infllm:3", "")])
@pytest.mark.parametrize("filed", [False, True])
def test_blocks_that_a_memory_looks_up_are_written_once(tmp_path, monkeypatch, text, setting, filed):
    """Sealed blocks, in memory or in files, are not written again by the next save; a resumed stream has them all."""
    settings = ["memory.window=20", *([f"memory.{setting}"] if setting else [])]
    stream = pushed(tiny("frame", seed=1).engine.open(text, settings=settings), 30)
    shelf = stream.state.memory.shelf
    if filed:
        tier = Tier(tmp_path / "tier")
        assert all(block.file(tier) for block in shelf.blocks[:20])  # those behind the window
    path = tmp_path / "s"
    stream.save(path)
    disk = Disk().install(monkeypatch)
    pushed(stream, 2).save(path)
    assert disk.num_bytes < 0.6 * sum((path / name).stat().st_size for name in names(path))
    monkeypatch.undo()
    back = resume(path)
    assert same(back.state, stream.state)
    kept = names(path, "rows")
    pushed(back, 1).save(path)
    assert kept <= names(path, "rows")
    pushed(stream, 1)
    assert same(back.state, stream.state)
    assert back.ask(QUESTION, max_tokens=3).tokens == stream.ask(QUESTION, max_tokens=3).tokens


def test_a_folder_is_one_however_it_is_spelled_and_whatever_was_saved_in_between(tmp_path, monkeypatch):
    """A save waits for the checkpoint that is being written to the same folder; neither removes the other's files."""
    stream, real, writing = opened("recent:4", num=4), folder._put, threading.Event()

    def slow(path, data):
        real(path, data)
        if threading.current_thread() is not threading.main_thread():
            writing.set()
            time.sleep(0.05)

    monkeypatch.setattr(folder, "_put", slow)
    monkeypatch.chdir(tmp_path)
    kept = stream.checkpoint(tmp_path / "cam", every_s=0)
    stream.save("backup")
    pushed(stream, 1)
    assert writing.wait(10)
    stream.save("cam")
    kept.wait()
    assert kept.error is None
    assert same(resume(tmp_path / "cam").state, stream.state)
    assert resume(tmp_path / "backup").num_frames == 4


def test_two_folders_may_be_kept_up_to_date(tmp_path):
    stream = opened("recent:4")
    with stream.checkpoint(tmp_path / "a", every_s=0) as a, stream.checkpoint(tmp_path / "b", every_s=0) as b:
        for _ in range(4):
            pushed(stream, 1)
            a.wait()
            b.wait()
        assert (a.num_saved, b.num_saved) == (4, 4)
        b.close()
        pushed(stream, 1)
        a.wait()
        assert (a.num_saved, b.num_saved) == (5, 5)
    assert [resume(tmp_path / name).num_frames for name in "ab"] == [5, 5]


def test_a_folder_stays_where_it_was_named_and_many_are_not_held_on_to(tmp_path, monkeypatch):
    stream = opened("recent:4", num=2)
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    stream.save("porch")
    monkeypatch.chdir(tmp_path / "b")
    pushed(stream, 1).save(tmp_path / "a" / "porch")
    assert list((tmp_path / "b").iterdir()) == []
    assert resume(tmp_path / "a" / "porch").num_frames == 3
    for number in range(20):
        stream.save(tmp_path / str(number))
    assert len(stream._keeping._folders) == LATEST


def test_rows_are_written_once_to_folders_that_take_turns(tmp_path, monkeypatch):
    stream, disk = opened(num=40), Disk()
    for name in "ab":
        stream.save(tmp_path / name)
    disk.install(monkeypatch)
    for name in "abab":
        stream.save(tmp_path / name)
    assert disk.num_bytes < sum(path.stat().st_size for path in (tmp_path / "a").glob("rows-*"))


def test_checkpoints_come_whatever_an_observer_raises(tmp_path):
    stream = opened(num=1)

    def fail(sight, report):
        raise RuntimeError("observed")

    kept = stream.checkpoint(tmp_path, every_s=0)
    stream.observe(fail)
    for num in (1, 2):
        with pytest.raises(RuntimeError, match="observed"):
            pushed(stream, 1)
        kept.wait()
        assert kept.num_saved == num
    assert same(resume(tmp_path).state, stream.state)


def test_saving_removes_only_what_saves_have_left(tmp_path):
    own = ("state-of-art.safetensors", "rows-mine.safetensors.bak", "rows.safetensors", "notes.txt")
    left = ("rows-0123456789abcdef.safetensors", "state-0123456789abcdef.safetensors.part")
    for name in (*own, *left):
        (tmp_path / name).write_text("x")
    opened(num=4).save(tmp_path)
    assert names(tmp_path) == {*own, *manifest(tmp_path)["files"], "stream.json"}


def test_a_folder_belongs_to_one_stream_at_a_time(tmp_path, monkeypatch):
    """Two would each remove the files of the other."""
    monkeypatch.setattr(folder, "WAIT_S", 0.1)
    first, second = opened(num=4), opened(num=6)
    with first.checkpoint(tmp_path):
        for save in (second.checkpoint, second.save, second.fork().save):
            with pytest.raises(SavedStreamError, match="another stream is saved there; give another folder"):
                save(tmp_path)
        first.save(tmp_path)  # its own may be saved in between
        pushed(first, 2)
    assert same(resume(tmp_path).state, first.state)
    with second.checkpoint(tmp_path):
        pass
    assert same(resume(tmp_path).state, second.state)
    with pytest.raises(KeyboardInterrupt), first.checkpoint(tmp_path):
        raise KeyboardInterrupt
    second.save(tmp_path)


def test_streams_that_save_to_a_folder_in_turn_leave_it_whole(tmp_path):
    one, two = opened(num=70), opened(num=75)
    for _ in range(3):
        for stream in (one, two):
            pushed(stream, 3).save(tmp_path)
            assert same(resume(tmp_path).state, stream.state)


def test_a_checkpoint_that_meets_a_lost_block_says_so(tmp_path):
    stream = tiny("frame", seed=1).engine.open(
        "rekv:2", settings=("memory.window=10", "memory.ram_blocks=1"), disk=tmp_path / "disk"
    )
    said: list[str] = []
    checkpoint = stream.checkpoint(tmp_path / "saved", every_s=0, noted=said.append)
    pushed(stream, 8)
    checkpoint.wait()
    for file in (tmp_path / "disk").rglob("*.kv"):
        file.unlink()
    checkpoint.folder._places.clear()  # as if none had been saved
    pushed(stream, 1)
    checkpoint.wait()
    assert isinstance(checkpoint.error, SavedStreamError)
    assert len(said) == 1
    assert "the stream goes on" in said[0]
    with pytest.raises(SavedStreamError, match="cannot be read back"):
        checkpoint.close()


def test_a_folder_is_left_alone_by_who_may_not_write_to_it(tmp_path, monkeypatch):
    """Trying whether it can be written to comes after the lock, too."""
    monkeypatch.setattr(folder, "WAIT_S", 0.01)
    stream, other = opened(num=4), opened(num=4)
    with stream.checkpoint(tmp_path):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        written = tmp_path.stat().st_mtime_ns
        with pytest.raises(SavedStreamError, match="another stream"):
            other.checkpoint(tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
        assert tmp_path.stat().st_mtime_ns == written


def test_a_closed_stream_and_a_replaced_checkpointer_let_their_folder_go(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WAIT_S", 0.01)
    stream, other = opened(num=4), opened(num=6)
    stream.checkpoint(tmp_path)
    with stream.checkpoint(tmp_path):
        pass
    other.save(tmp_path)
    stream.checkpoint(tmp_path)
    stream.save(tmp_path)
    stream.close()
    other.save(tmp_path)
    assert same(resume(tmp_path).state, other.state)


def test_a_process_that_was_forked_off_keeps_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WAIT_S", 0.01)
    stream = opened(num=4)
    with stream.checkpoint(tmp_path):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
    try:
        opened(num=6).save(tmp_path)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def no_thread(_) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("what", ["thread", "snapshot"])
def test_a_checkpoint_that_cannot_begin_costs_the_stream_nothing(tmp_path, monkeypatch, what):
    """What the stream had to say is said, the failure is told of once, and the stream can be closed."""
    told: list[str] = []
    engine = tiny("frame", seed=1).engine
    stream, alone = (engine.open(f"{WINDOW}+eos_threshold:1.0", watch="w1") for _ in "ab")
    kept = stream.checkpoint(tmp_path, every_s=0, noted=told.append)
    with monkeypatch.context() as patch:
        if what == "thread":
            patch.setattr(threading.Thread, "start", no_thread)
        else:
            patch.setattr(kept, "_snap", lambda: no_thread(None))
        for frame in frames(3):
            heard, wanted = stream.push(frame), alone.push(frame)
            assert [event.answer.tokens for event in heard] == [event.answer.tokens for event in wanted]
            assert heard
    assert told == [
        f"{tmp_path}: the stream cannot be saved (can't start new thread); the stream goes on, and the next checkpoint"
        " will try again"
    ]
    assert kept.error is not None
    pushed(stream, 1)
    kept.wait()
    assert kept.error is None
    assert same(resume(tmp_path).state, stream.state)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.push(frames(5)[4])


def test_a_stream_is_closed_whatever_its_checkpoints_raise(tmp_path, monkeypatch):
    stream = opened(num=1)
    stream.checkpoint(tmp_path)
    monkeypatch.setattr(stream._keeping, "end", lambda: no_thread(None))
    with pytest.raises(RuntimeError):
        stream.close()
    with pytest.raises(ValueError, match="closed"):
        pushed(stream, 1)


@pytest.mark.parametrize("deed", ["save", "close"])
def test_what_is_told_of_a_save_may_use_a_stream_that_is_being_closed(tmp_path, monkeypatch, deed):
    stream, done = opened(num=3), []
    failing, closing = threading.Event(), threading.Event()

    def noted(line: str) -> None:
        failing.set()
        assert closing.wait(20)
        time.sleep(0.1)  # until it waits for this thread
        stream.save(tmp_path / "other") if deed == "save" else stream.close()
        done.append(line)

    kept = stream.checkpoint(tmp_path / "s", every_s=0, noted=noted)
    with monkeypatch.context() as patch:
        Disk(0, FAULTS["full"]).install(patch)
        pushed(stream, 1)
        assert failing.wait(20)
    closer = threading.Thread(target=lambda: (closing.set(), stream.close()), daemon=True)
    closer.start()
    closer.join(20)
    assert not closer.is_alive(), "a deadlock"
    kept.wait()
    assert len(done) == 1
    if deed == "save":
        assert resume(tmp_path / "other").num_frames == 4


def test_an_error_behind_the_end_of_the_stream_is_not_hidden(tmp_path):
    stream = opened(num=1)
    with pytest.raises(KeyError), stream.checkpoint(tmp_path):
        leave(stream.close(), KeyError)
    stream = opened(num=1)
    with pytest.raises(ValueError, match="closed"), stream.checkpoint(tmp_path):
        stream.close()  # it is not saved, which its maker asked for


def test_a_checkpointed_stream_that_is_dropped_goes_at_once(tmp_path):
    """What it holds is gigabytes: it does not wait for the collector."""
    stream = opened(num=1)
    with stream.checkpoint(tmp_path) as kept:
        pushed(stream, 1)
    gone, _ = weakref.ref(stream), gc.disable()
    try:
        del stream, kept
        assert gone() is None
    finally:
        gc.enable()
