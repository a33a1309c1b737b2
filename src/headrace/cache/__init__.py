"""Blocks of keys and values, what is known of each row, and the Context that attends to them."""

from headrace.cache.context import CacheContext, Past
from headrace.cache.store import KVCache
from headrace.cache.table import RowView
from headrace.cache.written import Written

__all__ = ["CacheContext", "KVCache", "Past", "RowView", "Written"]
