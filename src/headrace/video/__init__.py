"""Video: files, cameras, network streams and the synthetic world become timed frames."""

from headrace.video.dispatch import Source, open
from headrace.video.errors import VideoError
from headrace.video.reconnect import Reconnect
from headrace.video.source import VideoSource

__all__ = ["Reconnect", "Source", "VideoError", "VideoSource", "open"]
