"""The contract of retrievers: against the naive twin, within the budget, in the order of the stream."""

from __future__ import annotations

import pytest
import torch

from contract.plays import Case, play_of, run, twin_of
from headrace.engine.pipeline import Pipeline

STEPS = 16


def test_equals_the_naive_twin(retriever_variant: Case):
    """The same blocks for every question, layer and budget, while old ones leave; ties do not occur."""
    play = play_of(retriever_variant, None)
    twin, state = twin_of(retriever_variant.name).Twin(play.method, play.spec), play.init()
    for i in range(STEPS):
        item = play.item(1, i)
        state, _ = play.step(state, item)
        twin.add(item.number, item.block, item.embeds)
        twin.drop([item.number - 10])
        for layer in range(play.spec.layers) if play.method.per_layer else (None,):
            q = item.words if layer is None else item.queries[layer]
            scores = twin.scores(layer, q)
            low, high = min(scores.values()), max(scores.values())
            for budget in (0, 1, 2, 3, 5, 6, 9, 50):
                ids, worth = play.ask(state, layer, item, budget)
                want = twin.select(layer, q, budget)
                assert ids.tolist() == want
                scaled = [(scores[name] - low) / max(high - low, 1e-12) for name in want]
                torch.testing.assert_close(worth.double(), torch.tensor(scaled).double(), atol=1e-5, rtol=0)


def test_what_is_chosen_is_known_ascending_and_within_the_budget(retriever_case: Case):
    play = play_of(retriever_case, None)
    _, outs = run(play, play.init(), 2, range(STEPS))
    assert outs
    for i, out in enumerate(outs):
        for ids, worth, budget in zip(out[::2], out[1::2], (0, 3, 50) * play.spec.layers, strict=False):
            assert len(ids) == len(worth) <= budget
            assert (ids.dtype, worth.dtype) == (torch.int64, torch.float32)
            assert bool((ids.diff() > 0).all())
            assert all(max(0, i - 9) <= name <= i for name in ids.tolist())
            assert bool(((worth >= 0) & (worth <= 1)).all())


def test_an_empty_index_finds_nothing(retriever_case: Case):
    play = play_of(retriever_case, None)
    item = play.item(1, 0)
    ids, worth = play.ask(play.init(), 0 if play.method.per_layer else None, item, 5)
    assert (ids.tolist(), worth.tolist()) == ([], [])


def test_a_pipeline_names_it_beside_a_memory_that_looks_things_up(retriever_case: Case):
    pipeline = Pipeline.parse(f"rekv+{retriever_case.name}")
    assert type(pipeline.retriever) is type(retriever_case.build())
    with pytest.raises(ValueError, match="looks nothing up"):
        Pipeline.parse(f"full+{retriever_case.name}")
