"""MP4 files whose index comes last, from where one cannot seek: they are read whole into a temporary file first.

The boxes of an MP4 or MOV file may stand in any order. With the index (``moov``) behind the pictures (``mdat``) a
player has to jump to the end and back, which a pipe cannot, nor a server that does not know ranges.
"""

from __future__ import annotations

import tempfile
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, BinaryIO, cast
from urllib.error import URLError
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from headrace.video.errors import VideoError
from headrace.video.shots import Warn

_INDEXED = (".mp4", ".mov", ".m4v")
_LONGEST_BOX = 1 << 20  # boxes before the index or the pictures are small; a longer one ends the search


def read_head(read: Callable[[int], bytes]) -> tuple[bytes, bool]:
    """Read the first boxes of a stream, up to the header of its index or its pictures.

    Args:
        read: Returns up to so many bytes, and none only at the end.

    Returns:
        The bytes that were read, and True when this is an MP4 whose pictures come before its index.
    """
    head = b""

    def more(num: int) -> bytes:
        nonlocal head
        part = b""
        while len(part) < num and (data := read(num - len(part))):
            part += data
        head += part
        return part

    first = True
    while len(box := more(8)) == 8:
        size, kind = int.from_bytes(box[:4], "big"), box[4:]
        if kind in (b"mdat", b"moov"):
            return head, kind == b"mdat" and not first
        if (first and kind != b"ftyp") or not 8 <= size <= _LONGEST_BOX:
            return head, False
        more(size - 8)
        first = False
    return head, False


def spooled(head: bytes, read: Callable[[int], bytes]) -> BinaryIO:
    """Put what was read and the rest of a stream into a temporary file, which goes when it is closed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the source that reads it
    file.write(head)
    while data := read(1 << 20):
        file.write(data)
    file.seek(0)
    return cast(BinaryIO, file)


def fetched(address: str, name: str, timeout_s: float, warn: Warn) -> BinaryIO | None:
    """Fetch a web address into a temporary file where it cannot be watched otherwise.

    Args:
        address: Any address.
        name: What messages call it.
        timeout_s: Longest wait for the server.
        warn: Told when it is fetched.

    Returns:
        The file, or None where there is no need: no MP4 by its name, a server with ranges, the index first, or no
        answer (opening it says why).

    Raises:
        VideoError: The connection broke off while it was fetched.
    """
    path = address.partition("?")[0].lower()
    if not path.startswith(("http://", "https://")) or not path.endswith(_INDEXED):
        return None
    try:
        request = _request(address)
        with urllib.request.build_opener(_Redirected).open(request, timeout=timeout_s) as answer:
            if answer.status == 206:
                return None
            head, index_last = read_head(answer.read)
            if not index_last:
                return None
            warn(
                f"{name}: its index comes last and the server knows no ranges, so it is fetched whole before it starts"
            )
            return spooled(head, answer.read)
    except (URLError, HTTPException, UnicodeError):
        return None
    except OSError as problem:
        raise VideoError(f"cannot open {name}: the connection broke off ({problem})") from problem


def _request(address: str) -> urllib.request.Request:
    """Ask for all of a web address, by the user it names, if it names one."""
    scheme, place, *rest = urlsplit(address)
    user, at, host = place.rpartition("@")
    request = urllib.request.Request(urlunsplit((scheme, host, *rest)), headers={"Range": "bytes=0-"})
    if at:  # not for whomever it is redirected to
        request.add_unredirected_header("Authorization", "Basic " + b64encode(unquote_to_bytes(user)).decode())
    return request


class _Redirected(urllib.request.HTTPRedirectHandler):
    """Tells the user's name where a redirect stays with the server that was told it."""

    def redirect_request(self, req: Any, *others: Any) -> urllib.request.Request | None:
        """The request that follows; see the base class."""
        found, user = super().redirect_request(req, *others), req.get_header("Authorization")
        if found is not None and user and urlsplit(found.full_url)[:2] == urlsplit(req.full_url)[:2]:
            found.add_unredirected_header("Authorization", user)
        return found
