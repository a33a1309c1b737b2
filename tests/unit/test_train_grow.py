"""Starting from a checkpoint, and going on with a finished run."""

import pytest
import torch

from headrace.backbones import plain
from headrace.train import measure_nano, train_nano
from headrace.train.grow import grow
from headrace.train.loop import Run
from headrace.train.nano import build_nano, embedded


def quiet(*_):
    """Report nothing."""


@torch.no_grad()
def test_a_grown_model_says_what_the_old_one_did():
    config = plain.nano_config(10)
    config.text_config.num_hidden_layers = 2
    words = ["red", "star"]
    small = plain.word_tokenizer(words)
    old = plain.build(config, seed=4)
    large = plain.word_tokenizer(["blue", *words, "circle"])
    model = plain.build(plain.nano_config(len(large)), seed=5)

    def load(_):
        return old, small

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "load", load)
        grow(model, large, embedded())
    ids = [tokenizer("red star user red", return_tensors="pt").input_ids for tokenizer in (small, large)]
    assert not torch.equal(*ids)
    before, after = (one(input_ids=i).logits[0] for one, i in zip((old, model), ids, strict=True))
    shared = list(small.get_vocab())
    columns = [[tokenizer.get_vocab()[word] for word in shared] for tokenizer in (small, large)]
    assert (before[:, columns[0]] - after[:, columns[1]]).abs().max() < 1e-5
    fresh = model.model.language_model.embed_tokens.weight[large.get_vocab()["circle"]]
    assert 0.2 < fresh.norm() / model.model.language_model.embed_tokens.weight.norm(dim=1).median() < 5


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    tokenizer = plain.word_tokenizer(["red"])
    plain.save(plain.build(plain.tiny_config(len(tokenizer))), tokenizer, tmp_path)
    model = plain.build(plain.nano_config(len(tokenizer)))
    with pytest.raises(ValueError, match="shape"):
        grow(model, tokenizer, tmp_path)


def test_a_checkpoint_with_more_layers_is_refused(monkeypatch):
    tokenizer = plain.word_tokenizer(["red"])
    config = plain.nano_config(len(tokenizer))
    config.text_config.num_hidden_layers = 7
    config.text_config.layer_types = ["full_attention"] * 7
    old, model = plain.build(config), plain.build(plain.nano_config(len(tokenizer)))
    monkeypatch.setattr(plain, "load", lambda _: (old, tokenizer))
    with pytest.raises(ValueError, match="has 7 decoder layers, and nano has 6"):
        grow(model, tokenizer, embedded())


@pytest.mark.long  # trains twice
def test_a_run_may_start_from_nano_and_go_on(tmp_path):
    train_nano(tmp_path, smoke=True, start="nano", progress=quiet)
    parts, _ = build_nano(1)
    run = Run(tmp_path, 1, torch.device("cpu"))
    run.load(parts)
    assert list(run.finished) == ["follow", "watch"]
    assert run.start == "nano"
    assert run.origin.startswith("nano, sha256 ")
    assert run.origin in " ".join((tmp_path / "nano" / "README.md").read_text().split())
    tower = parts["model"].model.vision_tower.embeddings.patch_embedding.weight
    assert torch.equal(tower, plain.load(embedded())[0].model.vision_tower.embeddings.patch_embedding.weight)
    train_nano(tmp_path, smoke=True, more=True, progress=quiet)
    run.load(parts)
    assert run.finished["watch 2"] >= 1
    with pytest.raises(ValueError, match="did not start from"):
        train_nano(tmp_path, smoke=True, start="elsewhere", progress=quiet)


def test_only_a_finished_run_goes_on(tmp_path):
    with pytest.raises(ValueError, match="no finished run: see"):
        train_nano(tmp_path, smoke=True, more=True, progress=quiet)


def test_a_folder_without_a_checkpoint_is_not_measured(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        measure_nano(tmp_path, clips=2)
