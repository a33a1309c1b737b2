"""Speakers decide when the stream says something by itself."""
