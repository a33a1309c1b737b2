"""Kernels for a GPU, interpreted on the CPU and compiled without a GPU; run by ``make test-kernels``.

The interpreter cuts off where a GPU rounds to bf16, so sums in bf16 are compared up to one step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from headrace.backbones import FAMILIES, adopt, plain
from headrace.methods.encoders.stc_cacher import StcCacher
from headrace.ops import selective
from headrace.ops.selective import METRICS, NARROW, choose_plainly, similarity
from headrace.registry import build
from headrace.types import Frame
from reference import golden

pytestmark = pytest.mark.triton
SHAPES = [(1, 1, 1, 1), (1, 7, 5, 3), (2, 16, 24, 16), (3, 36, 48, 1), (1, 130, 40, 33), (2, 300, 72, 75)]


@pytest.fixture
def kernels() -> Iterator[ModuleType]:
    """The kernels, interpreted; without gradients, as streams run."""
    assert os.environ.get("TRITON_INTERPRET") == "1", "run by make test-kernels"
    from headrace.ops import kernels

    with torch.no_grad():
        yield kernels


@pytest.fixture
def everywhere(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the kernels work on the CPU, too; a list that grows by every choice they make."""
    calls: list[int] = []

    class Noted:
        @staticmethod
        def choose(keys, reference, **settings):
            calls.append(settings["num"])
            return kernels.choose(keys, reference, **settings)

    monkeypatch.setattr(selective, "kernels_on", lambda device: Noted)
    return calls


def test_the_check_before_first_use_passes_and_finds_a_wrong_kernel(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.check(torch.device("cpu"))
    monkeypatch.setattr(kernels.ChosenByKernels, "put", lambda self, base, new: base.expand(*self.places.shape, -1))
    with pytest.raises(RuntimeError, match="other results"):
        kernels.check(torch.device("cpu"))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_give_what_plain_operations_give(
    kernels: ModuleType, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    num_frames, num, width, many = shape
    keys, h = (torch.randn(num_frames, num, width).to(dtype) for _ in "kh")
    reference, added = (torch.randn(num, width).to(dtype) for _ in "ra")
    mixed = torch.randn(num_frames, many, width).to(dtype)
    for metric in METRICS:
        found, plainly = (make(keys, reference, num=many, metric=metric) for make in (kernels.choose, choose_plainly))
        scores = similarity(keys, reference, metric)  # two rows that are alike to the last bit may change places
        ordered = [scores.gather(1, x.rows) for x in (found, plainly)]
        torch.testing.assert_close(*ordered, rtol=1e-6, atol=1e-6)
        assert all(len(set(rows)) == many for rows in found.rows.tolist())
        places = torch.full((num_frames, num), -1, dtype=torch.int32)
        places.scatter_(1, found.rows, torch.arange(many, dtype=torch.int32).expand(num_frames, -1))
        assert torch.equal(found.places, places)
    plainly = selective.Chosen(found.rows, (found.rows + num * torch.arange(num_frames)[:, None]).flatten())
    for a, b in zip(found.pick(keys, h), plainly.pick(keys, h), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.put(reference, mixed), plainly.put(reference, mixed))
    settled = [x.settle(h, added, found.pick(keys, h)[1], mixed) for x in (found, plainly)]
    torch.testing.assert_close(*settled, rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=0)


def test_rows_alike_are_chosen_in_their_order_and_what_is_no_number_last(kernels: ModuleType) -> None:
    keys = torch.ones(2, 150, 8)
    keys[0, 40] = float("nan")
    keys[1, 30] = -1
    found = kernels.choose(keys, torch.ones(150, 8), num=149, metric="cosine")
    assert found.rows[0].tolist() == [x for x in range(150) if x != 40]
    assert found.rows[1].tolist() == [30, *(x for x in range(149) if x != 30)]


def test_tensors_may_lie_as_they_like(kernels: ModuleType) -> None:
    keys, h = torch.randn(2, 24, 16).transpose(1, 2), torch.randn(16, 2, 24).transpose(0, 1)
    reference, new = torch.randn(24, 16).t(), torch.randn(2, 24, 5).transpose(1, 2)
    found, plainly = (make(keys, reference, num=5, metric="l2") for make in (kernels.choose, choose_plainly))
    assert torch.equal(found.rows, plainly.rows)
    for a, b in zip(found.pick(keys, h), plainly.pick(keys, h), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.put(reference, new), plainly.put(reference, new))
    assert torch.equal(found.settle(h, reference, new, new), plainly.settle(h, reference, new, new))


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("settings", [{}, {"selection": "shared", "metric": "l2", "update_ratio": 0.4}], ids=str)
def test_a_stream_by_kernels_is_the_plain_one(
    family: str, settings: dict, everywhere: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build("stc_cacher", refresh_interval=3, fused=True, **settings)
    frames = [Frame(index, index / 2, torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)) for index in range(8)]
    backbone = adopt(*plain.tiny(family, ["what", "is"]), name="tiny")
    backbone = backbone.at(backbone.choose(backbone.view, frames[0]))

    def watch() -> list[torch.Tensor]:
        state, seen = method.init(backbone.spec), []
        for at in range(0, len(frames), 2):
            state, tokens = method.step(state, frames[at : at + 2], backbone)
            seen.append(tokens.features)
        return seen

    found = watch()
    assert everywhere, "the kernels were asked"
    monkeypatch.undo()
    for a, b in zip(found, watch(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["stc_interval2_chunk1", "stc_interval2_chunk2"])
def test_golden_files_pass_by_kernels(name: str, everywhere: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(StcCacher.__init__.__kwdefaults__, "fused", True)
    assert golden.check(Path(__file__).parents[1] / "data" / "golden" / f"{name}.safetensors")
    assert everywhere


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headrace.ops import kernels

half, whole = {"width": 1152, "block": 2048}, "i32"
numbers = {"num": whole, "many": whole}
for kernel, types, fixed in (
    (kernels._compare, dict(keys="*T", reference="*T", scores="*fp32", num=whole), {**half, "metric": "cosine"}),
    (kernels._compare, dict(keys="*T", reference="*T", scores="*fp32", num=whole), {**half, "metric": "l2"}),
    (kernels._rank, dict(scores="*fp32", places="*i32", rows="*i64", **numbers), {"block": 16, "step": 128}),
    (kernels._pick, dict(x="*T", h="*T", rows="*i64", of_x="*T", of_h="*T", **numbers), half),
    (kernels._put, dict(base="*T", new="*T", places="*i32", found="*T", **numbers), half),
    (kernels._settle, dict(h="*T", added="*T", picked="*T", mixed="*T", places="*i32", found="*T", **numbers), half),
):
    for dtype in ("bf16", "fp16", "fp32"):
        signature = {name: kind.replace("T", dtype) for name, kind in types.items()} | dict.fromkeys(fixed, "constexpr")
        source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
        made = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=kernels.AS_WRITTEN)
        print(kernel.__name__, dtype, len(made.asm["cubin"]), "cvt.rn.bf16" in made.asm["ptx"])
"""


@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_a_gpu(architecture: int, tmp_path: Path) -> None:
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    surroundings["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(architecture)],
        capture_output=True,
        text=True,
        env=surroundings,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    assert len(made) == 18
    assert all(int(size) > 1000 for _, _, size, _ in made)
    assert [rounds for name, dtype, _, rounds in made if (name, dtype) == ("_settle", "bf16")] == ["True"]
