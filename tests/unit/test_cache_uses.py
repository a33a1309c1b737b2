"""What a full disk loses: the blocks that were looked up least and longest ago."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.cache import Disk, Limits, Shelf
from headrace.cache.uses import HALVES, Looked
from headrace.engine.state import pack, unpack
from reference.naive.decoder import spec
from unit.test_cache_tiers import HEADS, LAYERS, WIDTH, filled, sealed


def look(shelf: Shelf, shares: dict[int, float]) -> Shelf:
    """Look blocks up; names that are gone may be among them."""
    names = sorted(shares)
    share = torch.tensor([shares[name] for name in names], dtype=torch.float64)
    return shelf.looked_up([Looked(shelf.next_id, torch.tensor(names, dtype=torch.int64), share)])


@settings(max_examples=8)
@given(room=st.integers(1, 4), held=st.integers(0, 2), data=st.data())
def test_a_full_disk_loses_the_least_useful(room: int, held: int, data: Any):
    """Against a list of names and a list of look-ups per block; saved and loaded on the way, which changes nothing."""
    size = 4 * LAYERS * HEADS * WIDTH * 2 * 4
    with tempfile.TemporaryDirectory() as folder:
        disk, uses = Disk(folder, limit_bytes=room * size), dict[int, list[tuple[int, float]]]()
        shelf, left, on_disk = Shelf(disk=disk), list[int](), list[int]()
        for name in range(10):
            shares = data.draw(st.dictionaries(st.integers(0, max(name - 1, 0)), st.sampled_from([0.25, 1.0])))
            shelf = look(shelf, shares) if name else shelf
            for other, share in shares.items() if name else ():
                uses[other].append((name, share))
            shelf, gone = shelf.add(sealed(4 * name, 4)).settled(Limits(100, held), 4 * name + 4)
            uses[name], worth = [(name, 1.0)], dict[int, float]()
            for other, looks in uses.items():
                worth[other] = sum(share * 2 ** (clock / HALVES) for clock, share in looks)
            left.append(name)
            on_disk += [x for x in left[: len(left) - held] if x not in on_disk]
            out = [min(on_disk, key=lambda x: worth[x])] if len(on_disk) > room else []
            left, on_disk = ([x for x in names if x not in out] for names in (left, on_disk))
            assert (gone.tolist(), shelf.ids.tolist()) == (out, left)
            got = dict(zip(left, shelf.worth.tolist(), strict=True))
            assert all(math.isclose(got[x], math.log2(worth[x]), abs_tol=1e-12) for x in left)
            if name == 6:
                before, tensors = shelf, dict[str, torch.Tensor]()
                tree = pack(shelf, tensors)
                shelf = replace(unpack(json.loads(json.dumps(tree)), tensors, spec()), disk=disk)
                assert torch.equal(shelf.worth, before.worth)
                del before
                shelf, gone = shelf.settled(Limits(100, held), 28)
                assert not len(gone)
        del shelf, disk


def test_a_shelf_that_was_saved_before_uses_were_counted():
    """Its blocks count from their names, so that the oldest are the least useful, as they were then."""
    shelf = look(filled(4), {1: 1.0})
    tree = shelf.pack()
    del tree["worth"]
    again = Shelf.unpack(tree, spec())
    again.check()
    assert again.worth.tolist() == [x / HALVES for x in range(4)]
    assert shelf.worth.argsort().tolist() == [0, 2, 3, 1]
