"""Gaps between pieces of a stream close, and nothing else moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.ops.positions import close_gaps

Piece = tuple[tuple[int, ...], tuple[int, ...]]


def closed(pieces: list[Piece], adjacent: list[bool]) -> list[Piece]:
    """Where the pieces stand afterwards."""
    lows, highs = zip(*pieces, strict=True)
    shifts = close_gaps(lows, highs, adjacent)
    return [
        tuple(tuple(a - b for a, b in zip(end, shift, strict=True)) for end in piece)  # type: ignore[misc]
        for piece, shift in zip(pieces, shifts, strict=True)
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=8))
def test_on_one_axis_what_was_left_out_goes_and_neighbours_keep_their_distance(drawn: list[tuple[int, int, bool]]):
    pieces, adjacent, at = [((0,), (3,))], [False], 3
    for gap, length, follows in drawn:
        pieces.append(((at + 1 + gap,), (at + 1 + gap + length,)))
        adjacent.append(follows)
        at += 1 + gap + length
    found = closed(pieces, adjacent)
    assert found[0] == pieces[0]
    for index, ((low,), (high,)) in enumerate(found[1:], start=1):
        assert high - low == pieces[index][1][0] - pieces[index][0][0]
        apart = low - found[index - 1][1][0]
        assert apart == (pieces[index][0][0] - pieces[index - 1][1][0] if adjacent[index] else 1)


def clip(start: int, times: list[int], *, rows: int = 2, cols: int = 3) -> list[Piece]:
    """Frames that share rows and columns."""
    return [((start + t, start, start), (start + t, start + rows - 1, start + cols - 1)) for t in times]


def words(at: int, num: int) -> Piece:
    return (at,) * 3, (at + num - 1,) * 3


def test_frames_of_a_clip_close_up_in_time_alone():
    """The first one found begins the clip, whenever it was; what comes behind stands behind all of it."""
    pieces = [words(0, 5), *clip(5, [40, 300, 301, 900]), words(906, 4)]
    found = closed(pieces, [False, False, False, True, False, False])
    assert found[1:5] == clip(5, [0, 1, 2, 3])
    assert found[5] == words(9, 4)


def test_what_follows_a_clip_that_closed_up_stands_behind_it_also_where_nothing_was_left_out_between():
    found = closed([words(0, 5), *clip(5, [40, 90]), words(96, 4)], [False, False, False, True])
    assert found[1:] == [*clip(5, [0, 1]), words(8, 4)]


def test_the_next_clip_counts_from_its_own_start():
    pieces = [words(0, 5), *clip(5, [0, 7]), words(13, 4), *clip(17, [30, 31])]
    found = closed(pieces, [False, True, False, True, False, True])
    assert found == [words(0, 5), *clip(5, [0, 1]), words(8, 4), *clip(12, [0, 1])]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 4))
def test_nothing_moves_where_nothing_is_left_out(steps: list[int], num_words: int):
    times = [sum(steps[:n]) for n in range(len(steps))]
    pieces = [words(0, 5), *clip(5, times)]
    pieces.append(words(5 + max(times[-1], 2) + 1, 1 + num_words))
    assert closed(pieces, [False, *[True] * (len(pieces) - 1)]) == pieces


@given(st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=12), st.integers(1, 50))
def test_positions_never_outgrow_what_is_looked_at(drawn: list[tuple[int, bool]], later: int):
    """Of a long clip, some frames; the words behind it are where what is looked at ends, whatever was left out."""
    times = [sum(step for step, _ in drawn[: n + 1]) for n in range(len(drawn))]
    follows = [False, *(follow for _, follow in drawn[1:])]
    pieces = [words(0, 5), *clip(5, times), words(5 + max(times[-1], 2) + later, 3)]
    found = closed(pieces, [False, *follows, False])
    kept = sum(step for (step, _), follow in zip(drawn, follows, strict=True) if follow)
    assert found[-1][0] == (5 + max(3, 1 + kept + follows[1:].count(False)),) * 3
