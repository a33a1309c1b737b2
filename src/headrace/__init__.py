"""headrace: an engine that watches a live video stream with a video language model."""

__version__ = "0.1.0"
