"""Phase 1, see: the tower and the projector learn to say what every visual token shows.

A throw-away linear head reads each token, normalised as the decoder's first layer will see it. The classes' directions
in that head become the words' first embeddings in the next phase.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.clips import Labels, film, label, pixels, training_world
from headrace.train.loop import Phase, Run, fit
from headrace.video.world.generator import Draw
from headrace.video.world.script import COLOURS, SHAPES

HEADS = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "digit": 11,
    "place": 9,
    "centre": 2,
    "row": 8,
    "column": 8,
}
WEIGHTS = {"shape": 4.0, "row": 0.3, "column": 0.3}  # shape is learned last by far
FRAMES_PER_SCENE = 4


class TokenHead(nn.Module):
    """Reads classes and coordinates off visual tokens of a width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes = nn.Linear(width, sum(HEADS.values()))
        self.coordinates = nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Read (N, D) tokens: logits (N, classes) of every head, and (N, 4) coordinates."""
        tokens = normal(tokens)
        logits = self.classes(tokens).float().split(list(HEADS.values()), dim=1)
        return dict(zip(HEADS, logits, strict=True)), self.coordinates(tokens).float()

    def direction(self, head: str, number: int) -> Tensor:
        """Return the (D,) direction that tells one class from the others of its head, of length 1."""
        start = sum(list(HEADS.values())[: list(HEADS).index(head)])
        rows = self.classes.weight.detach()[start : start + HEADS[head]].float()
        return F.normalize(rows[number] - rows.mean(dim=0), dim=0)


def normal(tokens: Tensor) -> Tensor:
    """Scale (N, D) rows to a root mean square of 1, in fp32."""
    return F.rms_norm(tokens.float(), (tokens.shape[-1],), eps=1e-6)


def look(model: Any, values: Tensor) -> Tensor:
    """Run tower, projector and pooling.

    Args:
        model: The LLaVA-OneVision model.
        values: (T, 3, height, width) pixels.

    Returns:
        (T, 64, D) visual tokens, without the newline.
    """
    core = model.model
    tower = core.vision_tower  # the family reads the state before the tower's last norm
    patches = tower.encoder(inputs_embeds=tower.embeddings(values)).last_hidden_state
    patches = core.multi_modal_projector(patches)
    side = int(patches.shape[1] ** 0.5)
    grid = patches.transpose(1, 2).reshape(len(patches), -1, side, side)
    return F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)


def batch(seed: int, step: int, num_frames: int) -> tuple[Tensor, Labels]:
    """Draw the pictures of one training step with their labels."""
    pictures, parts = [], []
    for number in range(num_frames // FRAMES_PER_SCENE):
        draw = Draw(seed, 11, step, number)
        world = training_world(seed, 1, step, number, crowded=draw.chance(80))
        scene = world.scene(draw.below(16))
        since = (scene.start + scene.stop) // 2 if draw.chance(70) else scene.start
        ticks = [draw.between(since, scene.stop - 1) for _ in range(FRAMES_PER_SCENE)]
        pictures.append(film(world, ticks))
        parts.append(label(scene, ticks))
    fields = ("classes", "coordinates", "sprite", "shown", "number")
    joined = Labels(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))
    generator = torch.Generator().manual_seed(Draw(seed, 12, step).below(1 << 60))
    return pixels(torch.cat(pictures), generator), joined


def loss(head: TokenHead, tokens: Tensor, labels: Labels) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step and how often each class is right where something is shown."""
    logits, coordinates = head(tokens.flatten(0, 1))
    total = tokens.new_zeros((), dtype=torch.float32)
    right = {}
    for column, (name, found) in enumerate(logits.items()):
        truth = labels.classes[:, column]
        total = total + WEIGHTS.get(name, 1.0) * F.cross_entropy(found, truth, ignore_index=-100)
        where = labels.sprite & (truth >= 0) if name != "digit" else truth < 10
        right[name] = float((found.argmax(dim=1) == truth)[where].float().mean())
    return total + F.smooth_l1_loss(coordinates[labels.sprite], labels.coordinates[labels.sprite]), right


def train(run: Run, phase: Phase, parts: dict[str, Any], *, frames: int = 32) -> None:
    """Train tower, projector and head; then bring the tokens to the scale the decoder starts from.

    Args:
        run: The run.
        phase: How long and how fast.
        parts: ``model``, the LLaVA-OneVision model; ``head``, the throw-away head; others are kept as they are.
        frames: Pictures of one step.
    """
    model, head = parts["model"], parts["head"]
    core = model.model

    def step_loss(step: int, share: float) -> tuple[Tensor, dict[str, float]]:
        values, labels = batch(run.seed, step, frames)
        with torch.autocast(run.device.type, torch.bfloat16):
            tokens = look(model, values.to(run.device))
        return loss(head, tokens, labels.to(run.device))

    trained = [p for part in (core.vision_tower, core.multi_modal_projector, head) for p in part.parameters()]
    fit(run, phase, parts, trained, step_loss)
