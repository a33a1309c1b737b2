"""Blocks of keys and values, what is known of each row, and the Contexts that attend to them."""

from headrace.cache.asking import AskContext, Layout
from headrace.cache.context import CacheContext, Past, Seen
from headrace.cache.disk import Disk
from headrace.cache.fences import Fences
from headrace.cache.index import Found, MeanKeys, VectorIndex, choose
from headrace.cache.recall import Given, Library, RecallContext
from headrace.cache.sealed import Sealed, around_rows, cut_blocks, frame_rows
from headrace.cache.shelf import Limits, Shelf
from headrace.cache.stepwise import StepContext, Steps, Trace, Working, represented
from headrace.cache.store import KVCache
from headrace.cache.strand import Strand
from headrace.cache.table import RowView
from headrace.cache.windowed import WindowContext
from headrace.cache.written import Written

__all__ = [
    "AskContext",
    "CacheContext",
    "Disk",
    "Fences",
    "Found",
    "Given",
    "KVCache",
    "Layout",
    "Library",
    "Limits",
    "MeanKeys",
    "Past",
    "RecallContext",
    "RowView",
    "Sealed",
    "Seen",
    "Shelf",
    "StepContext",
    "Steps",
    "Strand",
    "Trace",
    "VectorIndex",
    "WindowContext",
    "Working",
    "Written",
    "around_rows",
    "choose",
    "cut_blocks",
    "frame_rows",
    "represented",
]
