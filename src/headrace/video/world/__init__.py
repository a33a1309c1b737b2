"""A synthetic world: an endless stream from a seed, with its own truth, questions and scoring."""

from headrace.video.world.foreground import foreground
from headrace.video.world.questions import KINDS, Question, View, choices, draw_pair, questions, vocabulary
from headrace.video.world.render import render
from headrace.video.world.score import Score, majority, matches, normalise, score
from headrace.video.world.script import LEVELS, TICKS_PER_SECOND, Level, Scene, Sprite, World
from headrace.video.world.source import WorldSource, frames, open_world, write_video
from headrace.video.world.watches import Watch, watches

__all__ = [
    "KINDS",
    "LEVELS",
    "TICKS_PER_SECOND",
    "Level",
    "Question",
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
