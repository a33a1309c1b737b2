"""SmolVLM2: a SigLIP tower, pixel shuffle, one linear connector, and a Llama decoder.

Model: arXiv 2504.05299 (Apache-2.0 code). A frame is scaled so that its long side is what the processor says, then
squeezed to the tower's square, both with Lanczos; encoded on its own; blocks of s x s patches become one token. Around
every frame stand its time and two delimiters, all ordinary vocabulary.

Ours differs: before a clip the processor of transformers writes how many frames follow and how long the clip is, and no
stream knows either. ``INTRO`` is the same sentence without the two, the same for every stream; everything behind it is
the processor's text, so that a stream equals transformers given this text.

Shapes: F frames, g patches per side, s scale factor, Cv tower width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor
from transformers import SmolVLMForConditionalGeneration
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from headrace.backbones.adapter import Adapter, raster, visual_rows
from headrace.backbones.decoder import DECODERS
from headrace.backbones.looking import check_view
from headrace.backbones.pictures import Pictures
from headrace.backbones.tower import SiglipBlock, embed_patches
from headrace.protocols import VisionBlock
from headrace.types import Cursor, Frame, Kind, Segment, View, VisualTokens, join

INTRO = "You are provided the following series of frames from a video.\n"
OUTRO = "\n\n"
VIDEO = "<video>"  # what the template writes for a clip; no vocabulary entry
FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"
LATEST_S = 10_000_000 * 60.0  # a time in seconds that is written as long as any will be
LARGEST_SIDE = 4096  # the processor scales no frame beyond this
LONG_SIDE = 4 * 364  # what it scales to where no file says

DEFAULTS: dict[str, Any] = {
    "max_image_size": {"longest_edge": 364},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 1,
    "rescale_factor": 1 / 255,
}


class SmolVlm(Adapter):
    """One set of SmolVLM2 weights, shared by all streams.

    Args:
        model: The loaded transformers model.
        tokenizer: Its tokenizer. Its own chat template is not used: as in transformers, conversations about a video
            have another.
        pictures: Settings of its picture processor.
        name: What to call it.

    Raises:
        ValueError: The configuration asks for something that is not supported.
    """

    model_class: ClassVar[Any] = SmolVLMForConditionalGeneration
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"text_config": DECODERS}

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> None:
        vision = model.config.vision_config
        super().__init__(
            model, model.model.text_model, tokenizer, video=VIDEO, intro=INTRO, template=DEFAULT_CHAT_TEMPLATE
        )
        self._tower, self._pictures = model.model.vision_model, pictures
        self._blocks: tuple[VisionBlock, ...] = tuple(SiglipBlock(x) for x in self._tower.encoder.layers)
        self._size, self._factor = vision.image_size, model.config.scale_factor
        self._side = vision.image_size // vision.patch_size
        if self._side % self._factor:
            raise ValueError(f"scale_factor: {self._factor} does not divide the tower's {self._side} patches per side")
        self._long_side = _long_side(pictures.settings, self._size)
        missing = [token for token in (FAKE, GLOBAL) if token not in tokenizer.get_vocab()]
        if missing:
            raise ValueError(
                f"tokenizer: knows no {missing[0]}, which stands around every frame; it is another model's"
            )
        grid = self._side // self._factor
        self.spec = self._describe(
            name,
            grid=(grid, grid),
            patch_grid=(self._side, self._side),
            vision_layers=len(self._blocks),
            vision_dim=vision.hidden_size,
            around_rows=self._around(_before(LATEST_S), FAKE),
        )

    @staticmethod
    def _sized(config: Any) -> dict[str, Any]:
        side = config.vision_config.image_size
        return {"max_image_size": {"longest_edge": side}, "size": {"longest_edge": 4 * side}}

    def at(self, view: View) -> SmolVlm:
        """Look through another view, which changes nothing: there is one size and one way to write."""
        check_view(view, one_size=(self._size, self._size))
        return self

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """Scale, squeeze and normalise: (F, 3, S, S) in the model's type."""
        scaled = [
            replace(frame, image=self._pictures.resize([frame], *self._scaled(frame))[0].permute(1, 2, 0))
            for frame in frames
        ]
        px = self._pictures.normalise(self._pictures.resize(scaled, self._size, self._size).to(self.spec.device))
        return px.to(self.spec.dtype)

    def _scaled(self, frame: Frame) -> tuple[int, int]:
        """Height and width after the first step: the long side as asked, the short one even, the aspect kept."""
        height, width = frame.image.shape[:2]
        ratio, long = width / height, self._long_side
        short = int(long / ratio) if width >= height else int(long * ratio)
        short = max(1, short + short % 2)
        return (short, long) if width >= height else (long, short)

    def patches(self, px: Tensor) -> Tensor:
        """Embed patches and their places: (F, 3, S, S) to (F, g*g, Cv)."""
        return embed_patches(self._tower.embeddings, px)

    def blocks(self) -> Sequence[VisionBlock]:
        """The tower's layers."""
        return self._blocks

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Normalise (F, g*g, Cv), put s x s patches side by side into one row, and project it."""
        x, s = self._tower.post_layernorm(h), self._factor
        grid = self._side // s
        x = x.view(len(frames), grid, s, grid, s, -1).transpose(2, 3).reshape(len(frames), grid * grid, -1)
        features = self._model.model.connector.modality_projection(x)
        return raster(features.flatten(0, 1), self.spec.grid, frames)

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Every frame's time, delimiter, tokens at their dense places, and delimiter."""
        parts, per_frame = self.reopen(cursor), tokens.grid[0] * tokens.grid[1]
        for one in tokens.split():
            shown = one.frames[0], one.times_s[0]
            parts.append(self._text(_before(one.times_s[0]), Kind.MARKER, turn=cursor.turn, shown=shown))
            parts.append(visual_rows(one, one.slot[None], advance=per_frame, turn=cursor.turn))
            parts.append(self._text(FAKE, Kind.MARKER, turn=cursor.turn, shown=shown))
        return join(parts)

    def close_clip(self, cursor: Cursor) -> Segment | None:
        """Nothing on its own: what ends a clip is white space, which is tokenized with the question behind it."""
        return None

    def turn(self, text: str, cursor: Cursor) -> Segment:
        """What ends the clip, where one is open, and the question up to where the answer starts."""
        whole = self._chat.question(text, answered=cursor.answered)
        return self._text((OUTRO if cursor.clip_open else "") + whole, Kind.TEXT, turn=cursor.turn)


def _before(time_s: float) -> str:
    """What stands before a frame's tokens; minutes go on past 59, fractions of a second are cut off."""
    minutes, seconds = divmod(int(time_s), 60)
    return f"\nFrame from {minutes:02d}:{seconds:02d}:{FAKE}{GLOBAL}"


def _long_side(settings: dict[str, Any], square: int) -> int:
    """Read the long side of the first step, and check the square of the second.

    Raises:
        ValueError: The square is not the tower's, or the long side is no number.
    """
    last = settings["max_image_size"]
    if not isinstance(last, dict) or last.get("longest_edge") != square:
        raise ValueError(f"max_image_size: {last} in the processor file is not the tower's {square}")
    sampling = settings.get("video_sampling") or {}
    size = settings.get("size") or sampling.get("video_size") or {"longest_edge": LONG_SIDE}
    side = size.get("longest_edge") if isinstance(size, dict) else None
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"size: {size} in the processor file has no longest_edge, a whole number of pixels")
    return min(side, LARGEST_SIDE)
