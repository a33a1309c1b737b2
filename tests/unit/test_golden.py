"""Golden files of published code, and the program that checks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from headrace import registry
from headrace.engine import Pipeline
from reference import golden

DATA = Path(__file__).parents[1] / "data" / "golden"
FILES = sorted(DATA.glob("*.safetensors"))


def changed(source: Path, target: Path, key: str) -> Path:
    """Copy a golden file with one value of one tensor changed."""
    with safe_open(str(source), "pt") as file:
        settings = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    flat = tensors[key].view(-1)
    flat[len(flat) // 2] += 1
    save_file(tensors, target, settings)
    return target


def test_there_are_files() -> None:
    assert {path.name for path in FILES} >= {"stc_interval2_chunk1.safetensors", "stc_interval2_chunk2.safetensors"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_pass(path: Path) -> None:
    assert golden.check(path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("stc_interval2_chunk1", "cacher.hidden"),
        ("stc_interval2_chunk1", "full.hidden"),
        ("stc_interval2_chunk1", "pruner.kept_indices"),
        ("flash-vstream-b_1", "csm"),
        ("flash-vstream-b_1", "csm_labels"),
        ("flash-vstream-b_1", "dam_units"),
        ("flash-vstream-b_1", "memory_sum"),
        ("flash-vstream-b_1", "position_ids"),
        ("flash-vstream-b_stream_1", "step1.published_times"),
        ("flash-vstream-a_1", "memory"),
        ("flash-vstream-a_1", "heaviest_three"),
    ],
)
def test_a_changed_value_is_found(tmp_path: Path, name: str, key: str) -> None:
    with pytest.raises(golden.MismatchError, match=key.removeprefix("pruner.")):
        golden.check(changed(DATA / f"{name}.safetensors", tmp_path / "changed.safetensors", key))


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = tmp_path / "unknown.safetensors"
    save_file({"x": torch.zeros(1)}, unknown)
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    command = [sys.executable, "-m", "tests.reference.golden", str(unknown)]
    done = subprocess.run(command, cwd=DATA.parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (
        1,
        f"{unknown}: FAILED, no known family; known: {', '.join(golden.checked())}\n",
    )
    assert golden.main([str(FILES[-1]), str(unknown), str(text), "missing"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ": ok, " in lines[0]
    assert [": FAILED, " in line for line in lines[1:]] == [True, True, True]
    assert golden.main([str(FILES[0])]) == 0
    assert golden.main([]) == 1


def edited(target: Path, settings: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> str:
    """Copy the first STC file with other settings and tensors (None: without it)."""
    with safe_open(str(DATA / "stc_interval2_chunk1.safetensors"), "pt") as file:
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = {**file.metadata(), **(settings or {})}
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({k: v.contiguous() for k, v in {**known, **named}.items() if v is not None}, target, said)
    return str(target)


def test_damaged_files_get_a_line_each_and_the_others_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "weights.encoder.layers.0.mlp.fc1.bias"
    with safe_open(str(DATA / "stc_interval2_chunk1.safetensors"), "pt") as file:
        tokens = file.get_tensor("pruner.features").shape[1]
        every = torch.arange(tokens).expand(file.get_tensor("pruner.features").shape[0], -1)
    good = edited(tmp_path / "all", {"keep_tokens": str(tokens + 36)}, pruner__kept_indices=every)
    bad = [
        edited(tmp_path / "weight", **{name: None}),
        edited(tmp_path / "shape", **{name: torch.zeros(3)}),
        edited(tmp_path / "pixels", pixel_values=torch.zeros(4, 3, 5, 5)),
        edited(tmp_path / "none", pixel_values=None),
        edited(tmp_path / "config", {"config": "[1]"}),
        edited(tmp_path / "interval", {"refresh_interval": "0"}),
        edited(tmp_path / "chunk", {"chunk_frames": "0"}),
    ]
    assert golden.main([*bad, good]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines] == ["FAILED"] * len(bad) + ["ok"]
    assert all(line.split("FAILED, ")[1].strip() for line in lines[:-1])
    assert "pixel_values" in lines[3]


def stored(key: str) -> torch.Tensor:
    """A tensor of the first STC file."""
    with safe_open(str(DATA / "stc_interval2_chunk1.safetensors"), "pt") as file:
        found: torch.Tensor = file.get_tensor(key)
        return found


@pytest.mark.parametrize("said", [{"update_ratio": "1"}, {"refresh_interval": "1"}])
def test_with_every_patch_computed_the_tower_is_dense(tmp_path: Path, said: dict[str, str]) -> None:
    assert golden.check(Path(edited(tmp_path / "dense", said, cacher__hidden=stored("full.hidden"))))


@pytest.mark.parametrize(
    ("said", "differs"),
    [
        ({"update_ratio": "0.5"}, "cacher.hidden"),
        ({"refresh_interval": "3"}, "cacher.hidden"),
        ({"chunk_frames": "2"}, "cacher.hidden"),
        ({"metric": "l1"}, "cacher.hidden"),
        ({"selection": "shared"}, "cacher.hidden"),
        ({"keep_tokens": "19"}, "kept_indices"),
        ({"score": "dual_anchor"}, "kept_indices"),
        ({"channels": "fixed"}, "kept_indices"),
    ],
)
def test_other_settings_give_something_else(tmp_path: Path, said: dict[str, str], differs: str) -> None:
    with pytest.raises(golden.MismatchError, match=differs):
        golden.check(Path(edited(tmp_path / "other", said)))


@pytest.mark.parametrize("said", [{"metric": "cosin"}, {"selection": "all"}, {"score": "gauss"}, {"channels": "some"}])
def test_settings_that_are_unknown_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, str]
) -> None:
    assert golden.main([edited(tmp_path / "unknown", said)]) == 1
    (key,) = said
    assert f": FAILED, {key}: " in capsys.readouterr().out


def test_a_value_that_is_no_number_is_a_mismatch(tmp_path: Path) -> None:
    hidden = stored("cacher.hidden").clone()
    hidden[0, 0, 0] = float("nan")
    with pytest.raises(golden.MismatchError, match=r"cacher\.hidden"):
        golden.check(Path(edited(tmp_path / "nan", cacher__hidden=hidden)))


def test_another_shape_is_a_mismatch_though_it_could_be_stretched(tmp_path: Path) -> None:
    with pytest.raises(golden.MismatchError, match=r"full\.hidden: shape"):
        golden.check(Path(edited(tmp_path / "shape", full__hidden=stored("full.hidden")[None])))


def test_what_is_named_stc_is_what_was_published() -> None:
    found = Pipeline.parse("stc")
    assert found.encoder == registry.build(
        "stc_cacher", refresh_interval=2, update_ratio=0.25, metric="cosine", selection="per_layer", fused=False
    )
    assert found.compressor == registry.build("stc_pruner", keep=0.3, score="gaussian", channels="per_chunk")


@pytest.mark.parametrize("broken", ["_reuse", "_refresh", "step"])
def test_the_encoder_itself_is_checked(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    from headrace.methods.encoders.stc_cacher import StcCacher

    monkeypatch.setattr(StcCacher, broken, lambda *_: 1 / 0)
    assert golden.main([str(DATA / "stc_interval2_chunk1.safetensors")]) == 1


def test_the_clock_of_the_encoder_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.methods.encoders.stc_cacher import StcCacher

    monkeypatch.setattr(StcCacher, "next_kind", lambda *_: "refresh")
    with pytest.raises(golden.MismatchError, match=r"cacher\.hidden"):
        golden.check(DATA / "stc_interval2_chunk1.safetensors")


def test_card_example_of_the_pruner() -> None:
    """Two chunks small enough to follow by hand."""
    from headrace.methods.compressors.stc_pruner import StcPruner
    from headrace.types import VisualTokens

    n, d = torch.arange(12.0)[:, None], torch.arange(8.0)[None]
    chunks = [torch.sin(0.37 * (n + 1) * (d + 1)), torch.cos(0.23 * (n + 2) * (d + 1))]
    place, method = torch.arange(12), StcPruner(keep=3)
    state, kept = method.init(None), []  # type: ignore[arg-type]
    for chunk in chunks:
        tokens = VisualTokens(chunk, place // 6, place * 0, place % 6, (1, 6), (0, 1), (0.0, 1.0))
        state, edit = method.step(state, tokens)
        kept.append((edit.indices.view(2, 3) % 6).tolist())
    assert kept == [[[0, 4, 5], [0, 1, 2]], [[0, 4, 5], [0, 1, 5]]]
