"""``stc_cacher``: what its reference holds, and that settings do not share what was recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headrace.backbones.graphs import Graphs
from headrace.engine import load
from headrace.registry import build
from headrace.types import Frame
from unit.test_graphs import Recorder
from unit.test_stc_adaptive import noisy, picture, shots


@pytest.fixture(scope="module")
def nano() -> Any:
    return load("nano", dtype="float32", device="cpu").backbone


@torch.no_grad()
def features(backbone: Any, images: list[Frame], **settings: Any) -> list[torch.Tensor]:
    method, found = build("stc_cacher", **settings), []
    state = method.init(backbone.spec)
    for image in images:
        state, tokens = method.step(state, [image], backbone)
        found.append(tokens.features)
    return found


@torch.no_grad()
def test_the_reference_holds_no_memory_of_other_frames(nano: Any) -> None:
    method = build("stc_cacher")
    state, _ = method.step(method.init(nano.spec), shots([picture(3)] * 4), nano)
    for layer in state.layers:
        for kept in (layer.keys, layer.values, layer.added):
            assert kept.untyped_storage().nbytes() == kept.nbytes


def test_settings_do_not_share_recordings(nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of several settings take turns on one backbone."""
    ways: list[dict[str, Any]] = [{}, {"metric": "l1"}, {"selection": "shared"}, {"update_ratio": 0.5}, {"fused": True}]
    images = shots(noisy(picture(3, 4 * tick), 20.0, tick) for tick in range(6))
    expected = [features(nano, images, **way) for way in ways]
    assert not any(torch.equal(torch.cat(expected[0]), torch.cat(other)) for other in expected[1:4])
    recorder = Recorder()
    monkeypatch.setattr(nano, "_graphs", Graphs(recorder, most=64))
    for _ in range(2):
        for way, wanted in zip(ways, expected, strict=True):
            for found, other in zip(features(nano, images, **way), wanted, strict=True):
                torch.testing.assert_close(found, other, atol=1e-5, rtol=0)
    assert recorder.recorded == 1 + len(ways), "one refresh for all, and a way to reuse for each"
