"""The model carries no fingerprints: whatever runs on it, it is afterwards exactly what it was."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

from contract.plays import families
from contract.streams import frames_of
from headrace import registry
from headrace.engine import Pipeline, load


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything a method could leave on a model: attributes, hooks, forwards, classes, weights, buffers, modes."""
    marks: dict[str, Any] = {}
    for path, module in model.named_modules():
        own = module.__dict__
        marks[path] = {
            "class": id(type(module)),
            "forward": id(type(module).forward),
            "attributes": sorted(own),
            "values": {key: _mark(value) for key, value in own.items() if not key.startswith("_")},
            "hooks": {key: len(value) for key, value in own.items() if "hooks" in key and hasattr(value, "__len__")},
            "children": {key: id(child) for key, child in module.named_children()},
        }
    marks["weights"] = {
        name: (id(x), x._version, x.requires_grad, x.grad is None, hashlib.sha256(_bytes(x)).hexdigest())
        for name, x in (*model.named_parameters(), *model.named_buffers())
    }
    marks["global hooks"] = [
        len(getattr(nn.modules.module, name)) for name in dir(nn.modules.module) if name.startswith("_global_") and
        name.endswith("hooks")
    ]  # fmt: skip
    return marks


def _mark(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else id(value)


def _bytes(x: torch.Tensor) -> bytes:
    return x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def models_of(backbone: Any) -> list[nn.Module]:
    """Every module a backbone holds."""
    found = [value for value in vars(backbone).values() if isinstance(value, nn.Module)]
    assert found, "no module found on the backbone"
    return found


@pytest.fixture(scope="module")
def engines(folders: Any) -> Any:
    found: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in found:
            found[family] = load(str(folders(family)), dtype="float32")
        return found[family]

    return get


@pytest.mark.parametrize("family", families())
def test_a_method_leaves_the_model_as_it_was(name: str, family: str, engines: Any):
    engine = engines(family)
    before = [fingerprint(model) for model in models_of(engine.backbone)]
    rng, mode = torch.random.get_rng_state(), torch.is_grad_enabled()
    role = registry.lookup(name).role
    stream = engine.open(Pipeline(**{**Pipeline.parse().methods(), role: registry.build(name)}))
    for frame in frames_of(1, 0, 3):
        stream.push(frame)
    stream.ask("what is there", max_tokens=3)
    stream.ask("what now", max_tokens=3, remember=True)
    for frame in frames_of(1, 1, 2):
        stream.push(frame)
    stream.fork().ask("what is there", max_tokens=2)
    assert [fingerprint(model) for model in models_of(engine.backbone)] == before
    assert torch.equal(torch.random.get_rng_state(), rng), "the global generator was used"
    assert torch.is_grad_enabled() == mode


@pytest.mark.parametrize("family", families())
def test_a_fingerprint_is_found(family: str, backbones: Any):
    """Each mark a method could leave is one this test sees."""
    model = models_of(backbones(family))[0]
    clean = fingerprint(model)
    module = next(m for m in model.modules() if isinstance(m, nn.Linear))
    module.extra = 1
    assert fingerprint(model) != clean
    del module.extra
    module.forward = lambda x: x
    assert fingerprint(model) != clean
    del module.forward
    hook = module.register_forward_hook(lambda *_: None)
    assert fingerprint(model) != clean
    hook.remove()
    with torch.no_grad():
        module.weight[0, 0] += 1
        assert fingerprint(model) != clean
        module.weight[0, 0] -= 1
    assert fingerprint(model)["" if "" in clean else next(iter(clean))] == clean[""]
