"""Packing: many questions behind one prefill are each alone, and are what plain transformers computes."""

from dataclasses import replace

import pytest
import torch

from headrace.backbones import plain
from headrace.train import watch
from headrace.train.answer import answered, loss, run_rows
from headrace.train.clips import film, label, pixels
from headrace.train.drop import MIXES, SELECTORS, keep
from headrace.train.nano import build_nano
from headrace.train.notes import NoteHead, take_notes
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Take, views
from headrace.train.see import look
from headrace.train.study import instruct
from headrace.train.summary import AT, EVENTS, FAMILIES, SIZES, TEXTS, SummaryHead, summarise
from headrace.train.summary import KINDS as SUMMARISED
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, World, happening, watches
from headrace.video.world.generator import Draw
from headrace.video.world.script import COLOURS, DIRECTIONS

WORLD, TICKS = World(2), list(range(5))
ASKS = (
    Ask(4, "where", "where is the star?", "top left"),
    Ask(1, "count", "how many things are there?", "two"),
    Ask(4, "digit", "what digit is on the display?", "7"),
)


@pytest.fixture(scope="module")
def nano():
    parts, tokenizer = build_nano(3)
    model = parts["model"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "language_model" in name:
                weight.mul_(4)
    return model, tokenizer, Words(tokenizer)


@pytest.fixture(scope="module")
def shot(nano):
    """Five frames in fp32."""
    assert WORLD.scene(0).stop > max(TICKS)
    with torch.no_grad():
        features = look(nano[0], pixels(film(WORLD, TICKS)))
    labels = label(WORLD.scene(0), TICKS)
    shown, number = labels.shown.reshape(len(TICKS), -1), labels.number.reshape(len(TICKS), -1)
    return Take(WORLD.scene(0), tuple(TICKS), 128, features, torch.rand(shown.shape), shown, number)


def clip_of(shot: Take, asks, kept=None) -> Clip:
    kept = torch.ones(len(TICKS), 64, dtype=torch.bool) if kept is None else kept
    return Clip([(shot, index) for index in range(len(TICKS))], asks, kept)


@torch.no_grad()
def test_a_packed_question_is_what_transformers_computes(nano, shot):
    model, tokenizer, words = nano
    logits, targets = run_rows(model, pack([clip_of(shot, ASKS)], words))
    at = 0
    for ask in ASKS:
        num = ask.after + 1
        content = [{"type": "video"}] * num + [{"type": "text", "text": ask.text}]
        ids = plain.chat_ids(tokenizer, [{"role": "user", "content": content}], [65] * num)
        told = [*tokenizer(ask.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        whole = torch.cat([ids, torch.tensor([told])], dim=1)
        expected = plain.forward(model, whole, pixels(film(WORLD, TICKS[:num]))[:, None])[ids.shape[1] - 1 : -1]
        assert targets[at : at + len(told)].tolist() == told
        assert (logits[at : at + len(told)] - expected).abs().max() < 2e-4
        at += len(told)
    assert at == len(targets)


@torch.no_grad()
def test_company_changes_nothing(nano, shot):
    model, _, words = nano
    kept = keep("uniform", 0.4, shot.change, shot.shown, torch.Generator().manual_seed(1))
    short = Clip([(shot, 0), (shot, 1)], ASKS[1:2], kept[:2])
    together, _ = run_rows(model, pack([clip_of(shot, ASKS, kept), short, clip_of(shot, ASKS)], words))
    alone = [run_rows(model, pack([clip_of(shot, [ask], kept)], words))[0] for ask in ASKS]
    alone += [run_rows(model, pack([short], words))[0], run_rows(model, pack([clip_of(shot, ASKS)], words))[0]]
    assert (together - torch.cat(alone)).abs().max() < 2e-4


@torch.no_grad()
def test_the_walk_is_the_decoders_forward_when_tokens_are_dropped(nano, shot):
    model, _, words = nano
    kept = keep("difference", 0.3, shot.change, shot.shown)
    batch = pack([clip_of(shot, ASKS, kept)], words)
    logits, _ = run_rows(model, batch)
    decoder = model.model.language_model
    visual = torch.where(batch.newline[:, :, None], model.model.image_newline, batch.visual)
    embed = decoder.embed_tokens
    rows = torch.cat([embed(batch.prefix), visual, embed(batch.asked)], dim=1)
    mask = torch.zeros(batch.mask().shape).masked_fill(~batch.mask(), -1e30)
    hidden = decoder(
        inputs_embeds=rows,
        attention_mask={"full_attention": mask},
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state[:, -batch.asked.shape[1] :]
    assert (model.lm_head(hidden[batch.targets >= 0]) - logits).abs().max() < 2e-4


def test_dropped_tokens_leave_gaps(nano, shot):
    words = nano[2]
    kept = torch.zeros(5, 64, dtype=torch.bool)
    kept[2, 10] = kept[4, 63] = True
    batch = pack([clip_of(shot, ASKS[:1], kept)], words)
    newlines = [2 + 65 * frame + 64 for frame in range(5)]
    expected = sorted([0, 1, *newlines, 2 + 65 * 2 + 10, 2 + 65 * 4 + 63])
    rows = len(expected)
    assert batch.positions[0, :rows].tolist() == expected
    assert batch.positions[0, rows] == 2 + 65 * 5
    assert batch.newline.sum() == 5


def test_answers_count_only_when_whole(nano, shot):
    batch = pack([clip_of(shot, ASKS)], nano[2])
    targets = batch.targets[batch.targets >= 0]
    perfect = torch.nn.functional.one_hot(targets, 120).float()
    assert answered(perfect, batch) == [True, True, True]
    spoiled = perfect.clone()
    spoiled[1] = 0  # "left" of "top left"
    assert answered(spoiled, batch) == [False, True, True]


@pytest.mark.parametrize("selector", list(dict.fromkeys(SELECTORS)))
@pytest.mark.parametrize("ratio", [0.15, 0.5, 1.0])
def test_selectors_keep_their_budget(selector, ratio, shot):
    kept = keep(selector, ratio, shot.change, shot.shown, torch.Generator().manual_seed(0))
    assert kept.shape == shot.shown.shape
    assert abs(int(kept.sum()) - ratio * kept.numel()) <= len(kept)
    if selector == "uniform":
        assert kept.sum(dim=1).unique().numel() == 1
    if selector == "exact" and ratio == 0.5:
        assert kept[shot.shown].all()


def test_an_unknown_selector_is_refused(shot):
    with pytest.raises(ValueError, match="noisy"):
        keep("stc", 0.5, shot.change, shot.shown)


def test_a_third_of_the_selectors_is_uniform_and_no_method_is_among_them():
    assert SELECTORS.count("uniform") / len(SELECTORS) >= 1 / 3
    assert not {"stc", "random"} & set(SELECTORS)


def test_watch_clips_ask_only_about_what_they_show(shot):
    class FakePool:
        takes = (shot, replace(shot), replace(shot))

    for step, mix in enumerate(tuple(MIXES) * 8):
        for clip in watch.clips(FakePool(), Draw(step), 0.9, 2, mix):
            assert 1 <= len(clip.frames) <= 64
            assert clip.kept.shape == (len(clip.frames), 64)
            assert mix != "none" or clip.kept.all()
            assert all(0 <= ask.after < len(clip.frames) for ask in clip.asks)


def test_notes_say_what_happened():
    world = World(5)
    scene = next(s for s in map(world.scene, range(0, 400, 12)) if len({x.appears for x in s.sprites}) > 2)
    ticks = list(range(scene.start, scene.stop))
    labels = label(scene, ticks)
    number = labels.number.reshape(len(ticks), -1)
    shown = labels.shown.reshape(len(ticks), -1)
    take = Take(scene, tuple(ticks), 128, torch.zeros(len(ticks), 64, 4), torch.zeros(shown.shape), shown, number)
    notes = take_notes([(take, index) for index in range(len(ticks))])
    assert (notes[number < 0] == -100).all()
    for which, sprite in enumerate(scene.sprites):
        for at, tick in enumerate(ticks):
            rows = notes[at][number[at] == which]
            if not len(rows):
                continue
            assert (rows == rows[0]).all()
            way, fresh, newest, _, altered, worn = rows[0].tolist()
            assert fresh == (sprite.appears == tick)
            assert altered == (tick >= sprite.changes)
            assert COLOURS[worn] == sprite.colour
            assert way == (list(DIRECTIONS).index(sprite.heading(tick)) if sprite.heading(tick) else -100)
            if newest == 1:
                assert all(s.appears < sprite.appears for s in scene.sprites if s != sprite and s.appears <= tick)


def test_notes_reach_the_loss(nano, shot):
    frames = [(shot, index) for index in range(len(TICKS))]
    kept = keep("exact", 0.3, shot.change, shot.shown)
    clip = Clip(frames, ASKS, kept, take_notes(frames))
    batch = pack([clip, Clip(frames[:2], ASKS[1:2], kept[:2], take_notes(frames[:2]))], nano[2])
    assert (batch.notes[batch.newline] == -100).all()
    assert int((batch.notes[0] != -100).any(dim=1).sum()) == int((kept & (shot.sprites >= 0)).sum())
    total, figures = loss(nano[0], {"notes": NoteHead(256), "summary": SummaryHead(256)}, batch)
    assert total > figures["answers"]
    assert {"note fresh", "note way", "note altered"} <= set(figures)
    assert not [name for name in figures if name.startswith("newline")]


def scenes(seed: int, ticks: int) -> list[tuple[Take, int]]:
    """The first ticks of a world as a clip, without features."""
    world, frames = World(seed), []
    while len(frames) < ticks:
        scene = world.scene(len(frames))
        part = tuple(range(scene.start, scene.stop))
        empty = torch.zeros(len(part), 64)
        take = Take(scene, part, 128, empty, empty, empty.bool(), empty.long())
        frames += [(take, index) for index in range(len(part))]
    return frames[:ticks]


def test_a_summary_holds_the_answer_to_every_question_and_every_event():
    frames = scenes(7, 60)
    summary = summarise(frames)
    assert summary.shape == (60, len(SIZES))
    for number, view in enumerate(views(frames)):
        row = summary[number]
        for name in SUMMARISED:
            answers = dict(ALL_KINDS[name](view))
            for text, (kind, choices) in TEXTS.items():
                if kind == name:
                    told = int(row[AT[text]])
                    assert answers.get(text) == (choices[told] if told >= 0 else None)
        assert {text for text in EVENTS if row[AT[text]] == 1} == set(happening(view))
    heard = {watch.text: watch.events_s for watch in watches(World(7), 0, 60, instructions=ALL_INSTRUCTIONS)}
    assert heard == {text: tuple(i / 2 for i in range(60) if summary[i, AT[text]] == 1) for text in EVENTS}


def test_a_summary_is_read_off_the_newline_rows(nano):
    frames, head = scenes(7, 30), SummaryHead(256)
    truth = summarise(frames)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    total, right = head.loss(torch.randn(30, 256), truth)
    starts = torch.tensor([0, *SIZES]).cumsum(0)
    expected: dict[str, list[float]] = {}
    for column, name in enumerate(FAMILIES):
        told = int((truth[:, column] >= 0).sum())
        expected.setdefault(name, []).extend([float(torch.tensor(SIZES[column]).float().log())] * told)
    whole = sum(sum(part) / len(part) for part in expected.values() if part) / len(expected)
    assert abs(float(total.detach()) - whole) < 1e-4
    rows = torch.eye(256)[:30]
    with torch.no_grad():
        for number in range(30):
            for column in (truth[number] >= 0).nonzero().flatten().tolist():
                head.weight[starts[column] + truth[number, column], number] = 5.0
    total, right = head.loss(rows, truth)
    assert set(right.values()) == {1.0}
    assert total < 0.1


def test_an_instruction_is_answered_when_it_comes_true_and_with_silence_else():
    seen = views(scenes(7, 40))
    drawn = [(view, *instruct(view, Draw(i))) for i, view in enumerate(seen)]
    assert all(reply == happening(view).get(text, "") for view, text, reply in drawn)
    assert 0.1 < sum(reply != "" for *_, reply in drawn) / len(drawn) < 0.6
