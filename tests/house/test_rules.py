"""Every rule catches a planted violation and lets its lawful neighbour pass."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath

import pytest

from house import arrows, habits, shapes

TREE_CHECKS = (*arrows.CHECKS, *shapes.CHECKS, *habits.CHECKS)
METHOD = "methods/memories/full.py"

# (checker, path below src/headrace, source that breaks the rule)
PLANTED = [
    (arrows.check_room, "attic.py", ""),
    (arrows.check_room, "attic/box.py", ""),
    (arrows.check_arrows, "types.py", "import headrace.ops"),
    (arrows.check_arrows, "types/rows.py", "from headrace.ops import rope"),
    (arrows.check_arrows, "ops/rope.py", "from headrace import cache"),
    (arrows.check_arrows, "ops/rope.py", "from .. import cache"),
    (arrows.check_arrows, "ops/rope.py", "from ..cache.blocks import Block"),
    (arrows.check_arrows, "ops/rope.py", "from headrace import __version__"),
    (arrows.check_arrows, "ops/deep/rope.py", "from ...cache import Block"),
    (arrows.check_arrows, "cache/blocks.py", "def f():\n    from headrace.engine import Stream"),
    (arrows.check_arrows, "cache/blocks.py", "if TYPE_CHECKING:\n    from headrace.video import open"),
    (arrows.check_arrows, "cache/blocks.py", "importlib.import_module('headrace.video')"),
    (arrows.check_arrows, "cache/blocks.py", "__import__('headrace.cli')"),
    (arrows.check_arrows, "video/files.py", "import headrace.backbones.plain"),
    (arrows.check_arrows, "backbones/plain.py", "from headrace.video import open"),
    (arrows.check_arrows, METHOD, "from headrace.backbones import load"),
    (arrows.check_arrows, "engine/stream.py", "import headrace.cli"),
    (arrows.check_arrows, "bench/overhead.py", "from headrace.train import nano"),
    (arrows.check_arrows, "registry.py", "from headrace.engine.stream import Stream"),
    (arrows.check_arrows, "__init__.py", "from headrace.cli import main"),
    (arrows.check_methods_apart, METHOD, "from headrace.methods.memories.recent import Recent"),
    (arrows.check_methods_apart, METHOD, "from .recent import Recent"),
    (arrows.check_methods_apart, METHOD, "from . import recent"),
    (arrows.check_methods_apart, METHOD, "from ..compressors.uniform import Uniform"),
    (arrows.check_doors, "engine/stream.py", "import transformers"),
    (arrows.check_doors, "engine/stream.py", "from transformers.cache_utils import Cache"),
    (arrows.check_doors, "engine/stream.py", "def f():\n    import transformers as t"),
    (arrows.check_doors, "cli.py", "import av"),
    (arrows.check_doors, "cli.py", "importlib.import_module('av.video')"),
    (arrows.check_doors, "bench/live.py", "from fastapi import FastAPI"),
    (arrows.check_doors, "video/live.py", "import websockets.sync.client"),
    (arrows.check_doors, "agents/live.py", "import uvicorn, starlette.routing"),
    (shapes.check_function_length, "ops/a.py", "def f():\n" + "    x = 1\n" * 60),
    (shapes.check_function_length, "ops/a.py", "class A:\n  async def f(self):\n" + "    x = 1\n" * 60),
    (shapes.check_function_length, "ops/a.py", "def f():\n    def g():\n" + "        x = 1\n" * 60),
    (shapes.check_arguments, "ops/a.py", "def f(a, b, c, d, e, f, g): ..."),
    (shapes.check_arguments, "ops/a.py", "def f(a, b, c, /, d, e, f, g=1): ..."),
    (shapes.check_arguments, "ops/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g): ..."),
    (shapes.check_arguments, "ops/a.py", "class A:\n    @staticmethod\n    def f(a, b, c, d, e, f, g): ..."),
    (shapes.check_docstrings, "ops/a.py", "def f(): ..."),
    (shapes.check_docstrings, "ops/a.py", "class A: ..."),
    (shapes.check_docstrings, "ops/a.py", "class A:\n    '''A.'''\n    def f(self): ..."),
    (shapes.check_docstrings, "ops/a.py", "if True:\n    async def f(): ..."),
    (shapes.check_name, "ops/utils.py", ""),
    (shapes.check_name, "ops/_helpers.py", ""),
    (shapes.check_name, "cache/manager.py", ""),
    (shapes.check_name, "misc/rope.py", ""),
    (shapes.check_name, "engine/common.py", ""),
    (shapes.check_one_method, METHOD, "class Full: ..."),
    (shapes.check_one_method, METHOD, "class _Full:\n    card = 1"),
    (shapes.check_one_method, METHOD, "class A:\n    card = 1\nclass B:\n    card: int = 1"),
    (habits.check_device_word, "ops/a.py", "x.to('cuda:0')"),
    (habits.check_device_word, "ops/a.py", "torch.cuda.synchronize()"),
    (habits.check_device_word, "engine/a.py", "y = x.is_cuda"),
    (habits.check_device_word, "engine/a.py", "import torch.cuda"),
    (habits.check_device_word, "engine/a.py", "from torch import cuda as device"),
    (habits.check_device_word, "engine/a.py", "f(cuda=True)"),
    (habits.check_device_word, "engine/a.py", "def CudaTimer(): ..."),
    (habits.check_device_word, "backbones/plain.py", "f'cuda:{n}'"),
    (habits.check_environment, "engine/a.py", "import os\nos.environ['A']"),
    (habits.check_environment, "engine/a.py", "import os\nos.getenv('A')"),
    (habits.check_environment, "engine/a.py", "from os import environ, path"),
    (habits.check_environment, "video/a.py", "from os.path import expandvars"),
    (habits.check_configuration, "engine/a.py", "import tomllib"),
    (habits.check_configuration, "engine/a.py", "from configparser import ConfigParser"),
    (habits.check_configuration, "engine/a.py", "open(home / 'headrace.toml')"),
    (habits.check_configuration, "engine/a.py", "x = 1\ndef f():\n    global x"),
    (habits.check_fingerprints, "backbones/a.py", "model.register_forward_hook(f)"),
    (habits.check_fingerprints, "backbones/a.py", "f(model.register_forward_pre_hook)"),
    (habits.check_fingerprints, "backbones/a.py", "layer.self_attn.forward = f"),
    (habits.check_fingerprints, "backbones/a.py", "layer.forward, x = f, 1"),
    (habits.check_fingerprints, "backbones/a.py", "layer.forward: object = f"),
    (habits.check_fingerprints, "backbones/a.py", "model.__class__ = Other"),
    (habits.check_fingerprints, "backbones/a.py", "setattr(layer, name, f)"),
    (habits.check_fingerprints, "backbones/a.py", "object.__setattr__(layer, 'x', f)"),
    (habits.check_fingerprints, "backbones/a.py", "delattr(layer, 'x')"),
    (habits.check_number_types, "ops/a.py", "x = torch.zeros(3, device=y.device)"),
    (habits.check_number_types, "cache/a.py", "torch.empty(0)"),
    (habits.check_number_types, "backbones/a.py", "mean = torch.tensor(self.mean)"),
    (habits.check_number_types, METHOD, "torch.full((3,), 1.0)"),
    (habits.check_number_types, METHOD, "torch.full((3,), first)"),
    (habits.check_number_types, "types/a.py", "torch.arange(0.5, n)"),
]

# The same, with sources that keep the rule.
LAWFUL = [
    (arrows.check_room, "ops/rope.py", ""),
    (
        arrows.check_arrows,
        "ops/rope.py",
        "import torch\nfrom headrace.types import Frame\nfrom headrace.ops import topk",
    ),
    (arrows.check_arrows, "cache/blocks.py", "from . import tiers\nfrom .tiers import Tier\nfrom ..types import Frame"),
    (
        arrows.check_arrows,
        "engine/stream.py",
        "from headrace import registry, video\nfrom headrace.backbones import load",
    ),
    (arrows.check_arrows, "cli.py", "from headrace import __version__\nfrom headrace.bench.overhead import run"),
    (arrows.check_arrows, "__init__.py", "from headrace.engine import Engine\nfrom .types import Frame"),
    (arrows.check_arrows, "__main__.py", "from headrace.cli import main"),
    (arrows.check_methods_apart, METHOD, "from headrace.cache import Blocks\nimport headrace.types"),
    (arrows.check_methods_apart, "registry.py", "from headrace.methods.memories.recent import Recent"),
    (arrows.check_doors, "backbones/plain.py", "import transformers"),
    (arrows.check_doors, "video/files.py", "import av.error"),
    (arrows.check_doors, "server/app.py", "from starlette.routing import Route"),
    (arrows.check_doors, "ops/rope.py", "import average, transformers_lookalike"),
    (shapes.check_function_length, "ops/a.py", "def f():\n" + "    x = 1\n" * 59),
    (shapes.check_function_length, "ops/a.py", "def f():\n    '''Say" + "\n" * 40 + "it.'''\n" + "    x = 1\n" * 59),
    (shapes.check_arguments, "ops/a.py", "def f(a, b, c, d, e, f, *, g, h): ..."),
    (shapes.check_arguments, "ops/a.py", "class A:\n    def f(self, a, b, c, d, e, f): ..."),
    (shapes.check_arguments, "ops/a.py", "@triton.jit\ndef f(a, b, c, d, e, f, g, h): ..."),
    (shapes.check_docstrings, "ops/a.py", "def _f(): ...\nclass _A:\n    def f(self): ..."),
    (shapes.check_docstrings, "ops/a.py", "def f():\n    '''Say.'''\n    def g(): ..."),
    (shapes.check_name, "ops/merge.py", ""),
    (shapes.check_one_method, METHOD, "class State: ...\nclass Full:\n    card: ClassVar[Card] = 1"),
    (shapes.check_one_method, "methods/memories/__init__.py", ""),
    (habits.check_device_word, "ops/a.py", "'''Runs on cuda.'''\ndef f():\n    '''cuda'''\n    x = 1  # cuda"),
    (habits.check_device_word, "backbones/graphs.py", "torch.cuda.graph(g)"),
    (habits.check_device_word, "bench/timing.py", "torch.cuda.Event()"),
    (habits.check_device_word, "cli.py", "device = 'cuda'"),
    (habits.check_environment, "cli.py", "import os\nos.environ['A']"),
    (habits.check_environment, "video/a.py", "import os\nos.path.exists(p)\nfrom os import fspath"),
    (habits.check_configuration, "cli.py", "import tomllib\nopen('headrace.toml')"),
    (habits.check_configuration, "backbones/a.py", "'''Reads no .toml.'''\nopen(folder / 'config.json')"),
    (habits.check_fingerprints, "backbones/a.py", "h = layer.forward(x)\nself.x = 1\nobject.__setattr__(self, 'x', 1)"),
    (habits.check_fingerprints, "train/a.py", "class A:\n    def forward(self, x): ..."),
    (habits.check_number_types, "ops/a.py", "torch.zeros(3, dtype=x.dtype)\ntorch.zeros_like(x)\nx.new_zeros(3)"),
    (habits.check_number_types, METHOD, "torch.full((3,), -1)\ntorch.arange(n)\ntorch.cat([x])"),
    (habits.check_number_types, "train/a.py", "torch.zeros(3)"),
    (habits.check_number_types, "backbones/plain/a.py", "torch.randn(3)"),
]


def _complaints(check, path: str, source: str) -> list[str]:
    return check(PurePosixPath(path), ast.parse(source))


@pytest.mark.parametrize(("check", "path", "source"), PLANTED)
def test_a_planted_violation_is_caught(check, path, source):
    found = _complaints(check, path, source)
    assert found
    assert all(line.startswith(path) for line in found)


@pytest.mark.parametrize(("check", "path", "source"), LAWFUL)
def test_a_lawful_source_passes(check, path, source):
    assert _complaints(check, path, source) == []


def test_every_rule_has_both_cases():
    assert {case[0] for case in PLANTED} == {case[0] for case in LAWFUL} == set(TREE_CHECKS)


def test_every_import_of_a_line_is_seen():
    found = _complaints(arrows.check_doors, "cli.py", "import av, transformers\nfrom headrace import ops, engine")
    assert [line.split(": ")[1] for line in found] == ["only video imports av", "only backbones imports transformers"]


def test_file_length():
    path = PurePosixPath("ops/a.py")
    assert shapes.check_file_length(path, 400) == []
    assert shapes.check_file_length(path, 401)


def test_distribution():
    assert shapes.check_distribution([150] * 9 + [400]) == []
    assert shapes.check_distribution([10] * 4 + [151] * 6)
    assert shapes.check_distribution([10] * 8 + [301] * 2)


@pytest.mark.parametrize("folder", ["home/me", "root/x", "Users/me", "work/main", "tmp/x.mp4", "opt/wheels"])
def test_a_machine_path_is_caught(folder):
    path = PurePosixPath("README.md")
    assert habits.check_machine_paths(path, f"fine\nopen('/{folder}')") == [
        f"README.md:2: names a machine's folder ({'/' + folder[: folder.index('/') + 2]!r})"
    ]
    assert habits.check_machine_paths(path, "see ../" + "shared/design.md")


def test_addresses_and_system_folders_are_no_machine_paths():
    text = "#!/usr/bin/env bash\nhttps://example.org/home/x\n/dev/video0\n/path/to/clip.mp4\n./work/x\na/tmp/b\n"
    assert habits.check_machine_paths(PurePosixPath("README.md"), text) == []
