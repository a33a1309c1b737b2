"""``headrace models``: every family has a row, and the bytes are those a memory would hold."""

from __future__ import annotations

from headrace.backbones import FAMILIES
from unit.tiny import objects, run


def test_every_family_has_a_row_with_what_it_costs() -> None:
    code, stdout, stderr = run("models", "--json")
    assert (code, stderr) == (0, "")
    rows = objects(stdout)
    assert {row["family"] for row in rows} == set(FAMILIES)
    for row in rows:
        assert row["event"] == "model"
        assert "/" in row["hub_name"]
        assert "tiny random sizes" in row["verified"]
        assert set(row["hour_bytes"]) == {"full", "streamingllm:2048", "recent:16"}
        assert row["hour_bytes"]["recent:16"] < row["hour_bytes"]["full"]
        assert row["hour_bytes"]["streamingllm:2048"] < row["hour_bytes"]["full"]
    by_name = {row["shape"]: row for row in rows}
    # 24 layers, keys and values of 2 heads of 64 in bf16; 196 tokens and a newline per frame, and the prefix
    row = 24 * 2 * 2 * 64 * 2
    assert 0 <= by_name["llava-onevision-0.5b"]["hour_bytes"]["full"] - 3600 * 197 * row < 20 * row
    for shape, millions in (("smolvlm2-256m", 256), ("smolvlm2-500m", 507), ("smolvlm2-2.2b", 2247)):
        assert round(by_name[shape]["parameters"] / 1e6) in range(millions - 1, millions + 2)
    assert by_name["smolvlm2-500m"]["tokens_per_step"] == 64
    assert by_name["smolvlm2-2.2b"]["tokens_per_step"] == 81


def test_the_table_names_hub_names_and_what_was_verified() -> None:
    code, stdout, _ = run("models")
    assert code == 0
    for word in ("SmolVLM2-500M-Video-Instruct", "streamingllm:2048", "released weights were not run"):
        assert word in " ".join(stdout.split())


def test_a_wrong_argument_is_refused() -> None:
    code, _, stderr = run("models", "smolvlm")
    assert code != 0
    assert "smolvlm" in stderr
