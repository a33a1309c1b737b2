"""placeholder"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the published context manager: attention, block vectors, their rows and scores, what was chosen."""
    from headrace.methods.memories.infllm import InfLLM
    from reference.golden import close, equal
    from reference.naive.driven import one_layer, rows_of

    values = json.loads(settings["settings"])
    spec, per_head = one_layer(values), values["perhead"]
    method = InfLLM(
        retrieve=values["topk"],
        window=values["n_local"],
        sinks=values["n_init"],
        block=values["block"],
        exec_rows=values["exec_block"],
        represent=values["repr_topk"],
        remainder="released",
        per_head=per_head,
        positions="repack",
    )
    state, outs, at, chosen, fresh = method.init(spec), [], 0, [], []
    for num in values["appends"]:
        context = method.read(state, spec, query=False)
        context.begin(rows_of(at, num, lambda _: -1))
        part = slice(at, at + num)
        outs.append(context.attend(0, None, *(tensors[name][:, part] for name in "qkv")))
        span = context.finish()
        chosen += context.selected
        (work,) = span.trace.working
        fresh += list(zip(work.tokens, work.mass, strict=True))
        state, at = method.write(state, span), at + num
    heads, num_blocks = values["heads"], len(state.shelf)
    vectors = state.index.vectors(0).view(num_blocks, heads, -1)
    vectors = vectors.transpose(0, 1) if per_head else vectors.flatten(1)[None]
    units = tensors["block_vectors"].shape[0]
    rows, mass = torch.stack([x for x, _ in fresh]), torch.stack([x for _, x in fresh])
    if per_head:
        rows, mass = rows.transpose(0, 1)[:, :, None], mass.transpose(0, 1)[:, :, None]
    else:
        rows, mass = rows[None], mass[None]
    picks = torch.full((len(chosen), units, values["topk"]), -1)
    for step, found in enumerate(chosen):
        for unit in range(units):
            own = sorted(found[unit % len(found)])
            picks[step, unit, : len(own)] = torch.tensor(own, dtype=torch.int64)
    wanted = tensors["selected_blocks"]
    ordered = torch.where(wanted < 0, wanted.max() + 1, wanted).sort(-1).values
    ordered = torch.where(ordered == wanted.max() + 1, -1, ordered)
    return ", ".join(
        [
            close("attention_out", torch.cat(outs, 1), tensors["attention_out"]),
            close("block_vectors", vectors, tensors["block_vectors"]),
            equal("representative_tokens", rows.reshape(tensors["representative_tokens"].shape), tensors["representative_tokens"]),
            close("token_scores", mass.reshape(tensors["token_scores"].shape), tensors["token_scores"]),
            equal("selected_blocks", picks, ordered),
        ]
    )
