"""Retrievers find the blocks of the past a question needs."""
