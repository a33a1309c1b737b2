"""Telling apart what a source given as text means, and the options each kind of address is opened with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import url2pathname

from headrace.video.errors import VideoError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_WEB = {"http", "https"}
_KEPT = "/%:@!$&'()*+,;=~"  # characters of a path that mean something, or have been encoded already
_PUSHED = {"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms", "mmsh", "mmst"}


@dataclass(frozen=True, slots=True)
class Address:
    """How PyAV is to open something that is not a plain file.

    Attributes:
        target: What PyAV is given.
        name: What messages call it; without password.
        format: Demuxer to force, or None.
        options: Demuxer and protocol options.
        live: True: never waits for us. None: an address whose length decides it.
        patient: Data may come in pieces, with nothing between them; silence is told by each connection alone.
    """

    target: str
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    live: bool | None = None
    patient: bool = False


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address in lower case ("rtsp"), or None where the text is not an address."""
    found = _SCHEME.match(text)
    return found.group(1).lower() if found else None


def local_path(text: str) -> Path:
    """The path that a ``file:`` address names.

    Raises:
        VideoError: It names another machine, or nothing.
    """
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise VideoError(f"cannot open {text}: a file's address has three slashes, as in file:///folder/clip.mp4")
    return Path(url2pathname(parts.path))


def quoted(text: str) -> str:
    """Write a web address as it goes over the wire: what has no place in one is percent-encoded."""
    scheme, host, path, query, _ = urlsplit(text)
    return urlunsplit((scheme, host, quote(path, safe=_KEPT), quote(query, safe=_KEPT + "?"), ""))


def without_password(text: str) -> str:
    """Remove user name and password from an address, for messages and logs."""
    return re.sub(r"(?<=://)[^/?#]*@", "", text)


def network(text: str, read_timeout_s: float) -> Address:
    """Describe a network address.

    Args:
        text: ``http``, ``https``, ``rtsp`` and the like, with ``://``.
        read_timeout_s: Longest silence in seconds before a read fails.

    Returns:
        The address with its options. A finite web file is resumed by the protocol itself where the server allows it.

    Raises:
        VideoError: The scheme is none of the known ones.
    """
    scheme, name = scheme_of(text), without_password(text)
    micros = str(int(read_timeout_s * 1e6))
    if scheme in _WEB:
        options = {"rw_timeout": micros, "reconnect": "1", "reconnect_delay_max": "2"}
        return Address(quoted(text), name, options=options, patient=True)
    if scheme in {"rtsp", "rtsps"}:
        return Address(text, name, options={"rtsp_transport": "tcp", "timeout": micros}, live=True)
    if scheme in _PUSHED:
        return Address(text, name, options={"rw_timeout": micros}, live=True)
    known = ", ".join(sorted(_WEB | _PUSHED))
    raise VideoError(f"cannot open {name}: {scheme}:// is not a known kind of address; known are {known}")


def is_camera(text: str, platform: str) -> bool:
    """Tell whether the text names a camera: ``camera:0``, ``camera:NAME``, and ``/dev/video0`` on Linux."""
    device = platform.startswith("linux") and re.fullmatch(r"/dev/video\d+", text)
    return text.startswith("camera:") or bool(device)


def camera(text: str, platform: str) -> Address:
    """Describe a camera device.

    Args:
        text: ``camera:0`` (a number), ``camera:NAME`` (a device path or name) or ``/dev/video0``.
        platform: As ``sys.platform`` says it; decides between v4l2, avfoundation and dshow.

    Raises:
        VideoError: The name is empty, or a number where only names work.
    """
    device = text.removeprefix("camera:").strip()
    if not device:
        raise VideoError(f"cannot open {text!r}: a camera needs a number or a name, as in camera:0")
    if platform.startswith("linux"):
        path = f"/dev/video{device}" if device.isdecimal() else device
        return Address(path, text, format="v4l2", live=True)
    if platform == "darwin":
        return Address(device, text, format="avfoundation", options={"framerate": "30"}, live=True)
    if platform != "win32":
        raise VideoError(f"cannot open {text!r}: cameras are supported on Linux, macOS and Windows")
    if device.isdecimal():
        raise VideoError(f"cannot open {text!r}: on Windows give the device's name, as in camera:Integrated Webcam")
    return Address(f"video={device}", text, format="dshow", live=True)
