"""The rules of the engine, one by one: what a saved state may name, who holds a folder, whose turn it is."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from headrace.engine.decoding import Chooser
from headrace.engine.folder import _release
from headrace.engine.gate import Gate
from headrace.engine.state import unpack
from headrace.engine.threads import TRIAL, Threads
from headrace.types import Query
from parity.families import kin
from parity.models import frames
from reference.naive.decoder import spec
from unit.test_checkpoints import names, opened, resume


@pytest.mark.parametrize("tree", [{"class": "elsewhere:State", "fields": []}, {"packed": "elsewhere:State", "tree": 1}])
def test_a_saved_state_names_classes_of_this_package_only(
    tree: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other module is even imported: that would run whatever stands in it."""
    (tmp_path / "elsewhere.py").write_text(
        "class State:\n    __dataclass_fields__ = {}\n    unpack = staticmethod(lambda tree, spec: 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'elsewhere:State' is no state of headrace"):
        unpack({**tree, "fields": {}}, {}, spec())
    assert "elsewhere" not in sys.modules


def test_a_file_of_rows_that_has_changed_is_written_again(tmp_path: Path) -> None:
    stream = opened(num=20)
    stream.save(tmp_path)
    name = min(names(tmp_path, "rows"))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    stream.save(tmp_path)
    assert resume(tmp_path).num_frames == stream.num_frames


def locked(folder: Path) -> bool:
    other = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(other)
    return False


def test_a_process_that_was_forked_off_does_not_unlock_its_parents_folder(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    _release(os.dup(held), os.getpid() + 1)  # as in a child, which has its parent's open file and not its number
    assert locked(tmp_path)
    _release(held, os.getpid())
    assert not locked(tmp_path)


def test_a_number_of_an_instruction_is_given_once() -> None:
    """Also where the first frame fixes the size of pictures, and the stream begins anew."""
    stream = kin("qwen2_5_vl").engine.open("streamingllm:200+eos_threshold")
    first = stream.watch("w1")
    for frame in frames(1, size=(30, 44)):
        stream.push(frame)
    assert stream.watch("w2") == first + 1


def test_an_answer_belongs_to_the_thread_that_took_its_last_part() -> None:
    lock = threading.RLock()
    gate = Gate(lock)
    with gate.taken():
        parts = gate.handed_out(iter("abc"))
        assert next(parts) == "a"
        other = threading.Thread(target=lambda: next(parts))
        other.start()
        other.join()
        with lock, pytest.raises(ValueError, match="whose thread has ended"):
            gate.pass_through()


def test_what_was_said_is_punished_on_both_sides_of_zero() -> None:
    found = Chooser(Query("x"), penalty=2.0, used=[0, 1]).scores(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert found.tolist() == [-2.0, 0.5, -1.0, 1.0]


@pytest.mark.parametrize(("load", "threads"), [(0.97, 4), (0.9, 2)])
def test_one_thread_fewer_must_help_by_a_twentieth(load: float, threads: int) -> None:
    now = [4]
    chooser = Threads(lambda: now[-1], now.append)
    for each in (1.0, load):
        for _ in range(TRIAL):
            chooser.look(True, each)
    assert now[1:] == [3, threads]
