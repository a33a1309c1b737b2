"""Visual tokens: taking, merging and splitting move everything attached alike."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.types import Frame, VisualTokens


def tokens(num_frames: int, rows: int, cols: int, *, attached: bool, dtype: str = "float32") -> VisualTokens:
    num = num_frames * rows * cols
    axes = torch.meshgrid(*(torch.arange(n) for n in (num_frames, rows, cols)), indexing="ij")
    frame, row, col = (axis.flatten() for axis in axes)
    generator = torch.Generator().manual_seed(num)
    features = torch.randn(num, 4, generator=generator).to(getattr(torch, dtype))
    return VisualTokens(
        features=features,
        frame=frame,
        row=row,
        col=col,
        grid=(rows, cols),
        frames=tuple(range(10, 10 + num_frames)),
        times_s=tuple(0.5 * i for i in range(num_frames)),
        deep=torch.stack((features * 3, features - 1)) if attached else None,
        weight=torch.arange(1, num + 1).float() if attached else None,
    )


def columns(x: VisualTokens) -> list[torch.Tensor]:
    return [t for t in (x.features, x.frame, x.row, x.col, x.weight) if t is not None]


steps = st.builds(tokens, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), attached=st.booleans())


@given(full=steps, data=st.data())
def test_take(full: VisualTokens, data: st.DataObject):
    indices = sorted(data.draw(st.sets(st.integers(0, len(full) - 1))))
    part = full.take(torch.tensor(indices, dtype=torch.int64))
    assert len(part) == len(indices)
    for a, b in zip(columns(part), columns(full), strict=True):
        assert torch.equal(a, b[indices])
    assert (part.deep is None) == (full.deep is None)
    assert full.deep is None or torch.equal(part.deep, full.deep[:, indices])
    assert part.slot.tolist() == indices
    assert (part.grid, part.frames, part.times_s, part.dense_len) == (full.grid, full.frames, full.times_s, len(full))


@given(full=steps, data=st.data())
def test_split_is_undone_by_joining(full: VisualTokens, data: st.DataObject):
    """Frame by frame; a frame that lost everything stays, empty."""
    indices = sorted(data.draw(st.sets(st.integers(0, len(full) - 1))))
    part = full.take(torch.tensor(indices, dtype=torch.int64))
    frames = part.split()
    assert [x.frames for x in frames] == [(i,) for i in full.frames]
    assert [x.times_s for x in frames] == [(t,) for t in full.times_s]
    assert torch.equal(torch.cat([x.features for x in frames]), part.features)
    assert torch.equal(torch.cat([x.frame + i for i, x in enumerate(frames)]), part.frame)
    assert torch.equal(torch.cat([x.row for x in frames]), part.row)
    if part.deep is not None:
        assert torch.equal(torch.cat([x.deep for x in frames], 1), part.deep)
        assert torch.equal(torch.cat([x.weight for x in frames]), part.weight)
    assert all(int(x.frame.abs().sum()) == 0 for x in frames)


@given(full=steps, data=st.data())
def test_merge(full: VisualTokens, data: st.DataObject):
    """Weighted means of features and deepstack alike; weights add up; places of the heaviest; raster order."""
    num = len(full)
    drawn = data.draw(st.lists(st.integers(0, num - 1), min_size=num, max_size=num))
    groups = torch.tensor([sorted(set(drawn)).index(x) for x in drawn])
    weights = torch.tensor(data.draw(st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=num, max_size=num)))
    merged = full.merge(groups, weights)
    old = torch.ones(num) if full.weight is None else full.weight
    want = []
    for group in range(int(groups.max()) + 1):
        members = [i for i in range(num) if int(groups[i]) == group]
        chief = max(members, key=lambda i: (float(weights[i]), -i))
        total = sum(float(weights[i]) for i in members)
        mean = sum(full.features[i] * (float(weights[i]) / total) for i in members)
        deep = None if full.deep is None else sum(full.deep[:, i] * (float(weights[i]) / total) for i in members)
        want.append((int(full.slot[chief]), mean, deep, sum(float(old[i]) for i in members)))
    want.sort(key=lambda item: item[0])
    assert merged.slot.tolist() == [item[0] for item in want]
    torch.testing.assert_close(merged.features, torch.stack([item[1] for item in want]), atol=1e-5, rtol=0)
    assert (merged.weight is None) == (full.weight is None and len(want) == num), "None where all are 1"
    new = torch.ones(len(merged)) if merged.weight is None else merged.weight
    assert new.tolist() == [item[3] for item in want]
    assert float(new.sum()) == float(old.sum())
    if full.deep is not None:
        torch.testing.assert_close(merged.deep, torch.stack([item[2] for item in want], 1), atol=1e-5, rtol=0)
    assert merged.features.dtype == full.features.dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_each_token_with_itself_changes_nothing(dtype: str):
    full = tokens(2, 3, 4, attached=True, dtype=dtype)
    merged = full.merge(torch.arange(24), torch.full((24,), 0.3))
    assert all(torch.equal(a, b) for a, b in zip(columns(merged), columns(full), strict=True))
    assert torch.equal(merged.deep, full.deep)
    assert merged.features.dtype == merged.deep.dtype == getattr(torch, dtype)


def test_merging_leaves_the_original_alone():
    full = tokens(1, 2, 2, attached=True)
    before = [x.clone() for x in columns(full)]
    full.merge(torch.tensor([0, 0, 1, 1]), torch.ones(4))
    assert all(torch.equal(a, b) for a, b in zip(columns(full), before, strict=True))


def test_bytes():
    assert tokens(1, 2, 3, attached=False).num_bytes() == 6 * (4 * 4 + 3 * 8)
    assert tokens(1, 2, 3, attached=True).num_bytes() == 6 * (3 * 4 * 4 + 3 * 8 + 4)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(4, 4, 3),
        torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
    ],
)
def test_a_frame_is_an_rgb_picture(image: torch.Tensor):
    with pytest.raises(ValueError, match="uint8"):
        Frame(0, 0.0, image)


def test_values_are_frozen():
    frame = Frame(0, 0.0, torch.zeros(2, 2, 3, dtype=torch.uint8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.index = 1
    assert frame.fork() is frame
