"""Makes tiny clips whose frames can be told apart: frame ``i`` is a flat grey with a bright top left corner."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

TICK = Fraction(1, 1000)


def grey(i: int) -> int:
    return 16 + 4 * i


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    image = np.full((height, width, 3), grey(i), np.uint8)
    image[: height // 3, : width // 4] = 250
    return image


def number_of(image: Tensor) -> int:
    """Which frame an image shows; read where no corner is, whichever way it is turned."""
    h, w = image.shape[:2]
    middle = image[h // 2 - 4 : h // 2 + 4, w // 2 - 4 : w // 2 + 4].float().mean().item()
    return round((middle - 16) / 4)


def make_clip(
    path: Path,
    times: Sequence[int],
    *,
    tick: Fraction = TICK,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    b_frames: int = 0,
    gop: int = 5,
    options: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Write one frame per presentation time, counted in ticks of so many seconds: milliseconds by default."""
    out = av.open(str(path), "w", format=format, options=options or {})
    stream = out.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
    stream.codec_context.time_base, stream.codec_context.gop_size = tick, gop
    if codec == "libx264":
        stream.options = {"bf": str(b_frames), "preset": "ultrafast", "qp": "4", "b_strategy": "0", "sc_threshold": "0"}
    elif b_frames:
        stream.options = {"bf": str(b_frames)}
    stream.time_base = tick
    for i, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
        frame.pts, frame.time_base = time, tick
        for packet in stream.encode(frame):
            out.mux(packet)
    for packet in stream.encode(None):
        out.mux(packet)
    out.close()
    return path


def every(step_ms: int, count: int, first_ms: int = 0) -> list[int]:
    return [first_ms + i * step_ms for i in range(count)]


def make_hls(folder: Path, clip: Path, *, closed: bool) -> Path:
    """Cut a clip into an HLS playlist with several segments; an open one has no end mark, as a live one."""
    playlist = folder / "list.m3u8"
    kind = {"hls_playlist_type": "vod"} if closed else {"hls_flags": "omit_endlist"}
    source = av.open(str(clip))
    out = av.open(str(playlist), "w", format="hls", options={"hls_time": "0.4", "hls_list_size": "0", **kind})
    stream = source.streams.video[0]
    copy = out.add_stream_from_template(stream)
    for packet in source.demux(stream):
        if packet.dts is not None:
            packet.stream = copy
            out.mux(packet)
    out.close()
    source.close()
    return playlist


def set_rotation(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write (a, b, c, d) of the display matrix into the track header of an MP4 file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0  # version 0: 32-bit times
    a, b, c, d = (x * 0x10000 for x in matrix)
    data[at + 40 : at + 76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
