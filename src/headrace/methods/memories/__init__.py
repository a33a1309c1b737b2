"""Memories keep the past of a stream."""
