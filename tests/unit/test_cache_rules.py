"""The rules of blocks that are looked up and of their disk, one by one."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headrace.cache import Disk, Limits, Shelf, disk
from headrace.cache.uses import by_layers
from unit.test_cache_tiers import sealed


def test_a_layer_that_took_every_block_chose_nothing() -> None:
    every, one = (SimpleNamespace(ids=torch.tensor(ids)) for ids in ([0, 1, 2], [1]))
    assert by_layers([every, every], 3, 2, 9) == ()
    (found,) = by_layers([every, one], 3, 2, 9)
    assert (found.ids.tolist(), found.share.tolist(), found.clock) == ([1], [0.5], 9)


def test_a_block_beyond_a_disks_limit_takes_no_other_with_it(tmp_path: Path) -> None:
    small, large = sealed(0, 2).num_bytes, sealed(4, 30).num_bytes
    shelf = Shelf(disk=Disk(tmp_path, limit_bytes=2 * small))
    assert large > 2 * small
    for block in (sealed(0, 2), sealed(2, 2), sealed(4, 30)):
        shelf = shelf.add(block)
    shelf, gone = shelf.settled(Limits(100, 0), 100)
    assert (gone.tolist(), shelf.ids.tolist()) == ([2], [0, 1])


def test_advice_begins_with_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses any other place, and says so to nobody."""
    page, told, tell = mmap.PAGESIZE, [], disk._tell
    assert tell is not None

    def noted(*args: object) -> int:
        told.append((args[0].value, args[1].value, tell(*args)))
        return 0

    file = Disk(tmp_path).write([torch.zeros(4 * page, dtype=torch.uint8)])
    (mapped,) = file.open()
    monkeypatch.setattr(disk, "_tell", noted)
    disk.advise(mapped, page + 100, 2 * page + 50, disk.WANTED)
    ((start, length, refused),) = told
    assert (start - mapped.data_ptr(), length, refused) == (page, page + 50, 0)
