"""A synthetic world: an endless stream from a seed, with its own truth, questions and scoring."""

from headrace.video.world.foreground import foreground
from headrace.video.world.levels import LEVELS, Level
from headrace.video.world.questions import (
    ALL_KINDS,
    GROUPS,
    KINDS,
    NEW_KINDS,
    Kind,
    Question,
    View,
    choices,
    draw_pair,
    look,
    questions,
    vocabulary,
)
from headrace.video.world.rare import Moment, RareWorld
from headrace.video.world.render import render
from headrace.video.world.score import Score, majority, matches, normalise, score
from headrace.video.world.script import TICKS_PER_SECOND, Scene, Sprite, World
from headrace.video.world.source import WorldSource, frames, open_world, write_video
from headrace.video.world.watches import (
    ALL_INSTRUCTIONS,
    INSTRUCTIONS,
    NEW_INSTRUCTIONS,
    Watch,
    happening,
    watches,
)

__all__ = [
    "ALL_INSTRUCTIONS",
    "ALL_KINDS",
    "GROUPS",
    "INSTRUCTIONS",
    "KINDS",
    "LEVELS",
    "NEW_INSTRUCTIONS",
    "NEW_KINDS",
    "TICKS_PER_SECOND",
    "Kind",
    "Level",
    "Moment",
    "Question",
    "RareWorld",
    "Scene",
    "Score",
    "Sprite",
    "View",
    "Watch",
    "World",
    "WorldSource",
    "choices",
    "draw_pair",
    "foreground",
    "frames",
    "happening",
    "look",
    "majority",
    "matches",
    "normalise",
    "open_world",
    "questions",
    "render",
    "score",
    "vocabulary",
    "watches",
    "write_video",
]
