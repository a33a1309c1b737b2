"""What a stream keeps long: in pages of its own that go back to the system, and no more of it once it is at home."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.space import anonymous_bytes
from headrace.cache import Disk, Limits, RowView, Sealed, Shelf, VectorIndex
from headrace.cache import index as index_module
from headrace.cache.index import PAGE
from headrace.cache.pages import LEAST_BYTES, own_copy, own_pages
from headrace.cache.table import RowTable
from headrace.engine.state import pack, same, unpack
from headrace.types import LayerSpan
from reference.naive.decoder import spec
from unit.test_cache_machine import segment

CPU = torch.device("cpu")


def large(start: int) -> Sealed:
    """A block of 100 KiB, which an allocator puts in its heap."""
    rows = torch.arange(100)
    layer = LayerSpan(torch.full((2, 100, 64), 1.0), torch.full((2, 100, 64), 2.0), None, rows)
    columns = torch.zeros(100, dtype=torch.int8), torch.zeros(100, dtype=torch.int64), torch.zeros(100).double()
    return Sealed.seal((layer,), RowView.alone(start, *columns, rows[None]), 0)


def test_a_filed_block_gives_its_memory_back_whatever_lies_around_it(tmp_path: Path):
    """200 blocks with small things kept between them: the holes of a heap would stay."""
    shelf, kept = Shelf(disk=Disk(tmp_path)), []
    for i in range(200):
        shelf = shelf.add(large(100 * i))
        kept.append(torch.zeros(256))
    before, held = anonymous_bytes(), shelf.num_bytes()
    shelf, gone = shelf.settled(Limits(200, 0), 20_000)
    assert not len(gone)
    assert before - anonymous_bytes() > 0.9 * (held - shelf.num_bytes()) > 15e6
    assert len(kept) == 200


def test_an_index_that_is_full_neither_grows_nor_moves():
    """One block in, one out: as many pages as before, and no vector is copied."""
    index, places = VectorIndex.empty(2, 3, CPU), []
    for i in range(5 * 300):
        after = index.add(i, torch.full((2, 3), float(i)))
        if len(after) > 300:
            after = after.drop(after.ids[:1])
            assert len(set(map(id, after.pages)) - set(map(id, index.pages))) <= 1
        index = after
        places.append((index.num_bytes() - 16 * len(index)) // 24)
    assert max(places[400:]) == max(places[:400]) <= 300 + 2 * PAGE
    assert index.vectors(1)[:, 0].tolist() == list(range(1200, 1500))


@given(data=st.data())
def test_an_index_holds_what_it_was_given(data):
    """Whatever leaves, in whatever order, with pages of three; saved and loaded in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "PAGE", 3)
        index, twin, most, model = VectorIndex.empty(2, 2, CPU), [], 0, spec()
        for number in range(data.draw(st.integers(1, 40))):
            index, twin = index.add(number, torch.full((2, 2), float(number))), [*twin, number]
            most = max(most, len(twin))
            gone = data.draw(st.lists(st.sampled_from(twin), unique=True)) if data.draw(st.booleans()) else []
            reader, seen = index, index.vectors(0).clone()
            index, twin = index.drop(torch.tensor(gone, dtype=torch.int64)), [x for x in twin if x not in gone]
            if data.draw(st.booleans()):
                tensors: dict[str, torch.Tensor] = {}
                again = unpack(pack(index, tensors), tensors, model)
                assert same(again, index)
                index = again
            other = index.fork().add(99, torch.full((2, 2), -1.0))
            index.check()
            assert index.ids.tolist() == twin
            assert index.vectors(1)[:, 1].tolist() == torch.cat([index.vectors(1)[:0], *index.parts(1)])[:, 0].tolist()
            assert index.vectors(1)[:, 1].tolist() == other.vectors(0)[:-1, 0].tolist() == twin
            assert torch.equal(reader.vectors(0), seen), "a reader sees what it saw"
            assert 3 * len(index.pages) <= VectorIndex.most(most)


def test_an_index_saved_without_pages_is_read():
    """As streams were saved before there were any."""
    ids = torch.arange(5, 5 + 2 * PAGE + 1)
    vectors = torch.randn(2, len(ids), 3)
    index = VectorIndex.unpack({"vectors": vectors, "ids": ids, "layers": 2, "width": 3}, spec())
    index.check()
    assert torch.equal(torch.stack([index.vectors(0), index.vectors(1)]), vectors)


@given(chunk_rows=st.integers(1, 7), num=st.integers(1, 30), dropped=st.integers(0, 10), data=st.data())
def test_rows_of_a_view_are_those_of_the_table(chunk_rows, num, dropped, data):
    """Across the chunks they lie in, and still when the table has forgotten them; no other chunk is kept."""
    table, rows = RowTable(1, chunk_rows), segment(num, 1, 0, 0)
    table.append(rows)
    table.drop_before(min(dropped, num - 1))
    start = data.draw(st.integers(table.first, num - 1))
    stop = data.draw(st.integers(start + 1, num))
    view = table.view().within(start, stop)
    table.drop_before(num)
    assert len(view) == stop - start
    assert len(view.chunks) <= (stop - start + chunk_rows - 2) // chunk_rows + 1
    for name in ("kind", "frame", "time_s", "ids"):
        assert torch.equal(getattr(view, name), getattr(rows, name)[..., start:stop])


def test_room_is_like_any_other():
    """Any shape and type; what is small lies where everything lies."""
    for shape, dtype in (((3, LEAST_BYTES), torch.int8), ((2, LEAST_BYTES), torch.bfloat16), ((0, 5), torch.float32)):
        room = own_pages(shape, dtype)
        assert (tuple(room.shape), room.dtype, room.is_contiguous()) == (shape, dtype, True)
        room.fill_(1)
        assert torch.equal(own_copy(room), room)
    before = anonymous_bytes()
    room = own_pages((1 << 25,), torch.uint8)
    assert anonymous_bytes() - before < 4e6, "pages that nobody touched cost nothing"
    view = room.fill_(1)[5:]
    del room
    assert anonymous_bytes() - before > 3e7, "a view keeps them"
    del view
    assert anonymous_bytes() - before < 4e6
