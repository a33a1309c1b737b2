"""The nouns of headrace: what a stream is made of, from a frame of pixels to an answer.

Shape letters used in the whole package: ``T`` new decoder rows, ``N`` visual tokens, ``F`` frames, ``H`` query heads,
``G`` key/value heads, ``D`` width, ``L`` layers, ``P`` position rows (1, or 3 for M-RoPE), ``J`` deepstack features.
"""

from headrace.types.rows import Attention, Clip, Cursor, Early, Kind, LayerSpan, Moment, Retrieved, Segment, Span, join
from headrace.types.spec import ModelSpec, Rope, View
from headrace.types.talk import Answer, Decision, Event, Observation, Query, Reply, Report, Token
from headrace.types.visual import Edit, Frame, Keep, Merge, Placed, Replace, Sight, VisualTokens

__all__ = [
    "Answer",
    "Attention",
    "Clip",
    "Cursor",
    "Decision",
    "Early",
    "Edit",
    "Event",
    "Frame",
    "Keep",
    "Kind",
    "LayerSpan",
    "Merge",
    "ModelSpec",
    "Moment",
    "Observation",
    "Placed",
    "Query",
    "Replace",
    "Reply",
    "Report",
    "Retrieved",
    "Rope",
    "Segment",
    "Sight",
    "Span",
    "Token",
    "View",
    "VisualTokens",
    "join",
]
