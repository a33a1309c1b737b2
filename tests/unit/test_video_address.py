"""What a source given as text means, and how it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import video
from headrace.video import VideoError
from headrace.video.address import camera, is_camera, local_path, network, quoted, scheme_of, without_password


@pytest.mark.parametrize(
    ("text", "platform", "target", "format"),
    [
        ("camera:0", "linux", "/dev/video0", "v4l2"),
        ("/dev/video2", "linux", "/dev/video2", "v4l2"),
        ("camera:/dev/v4l/by-id/x", "linux", "/dev/v4l/by-id/x", "v4l2"),
        ("camera:0", "darwin", "0", "avfoundation"),
        ("camera:Integrated Webcam", "win32", "video=Integrated Webcam", "dshow"),
    ],
)
def test_a_camera_is_opened_by_the_system_s_own_demuxer(text, platform, target, format):
    assert is_camera(text, platform)
    address = camera(text, platform)
    assert (address.target, address.format, address.live, address.name) == (target, format, True, text)


@pytest.mark.parametrize(
    ("text", "platform", "says"),
    [("camera:", "linux", "number or a name"), ("camera:0", "win32", "device's name"), ("camera:0", "aix", "Linux")],
)
def test_a_camera_that_cannot_be_is_one_clear_line(text, platform, says):
    with pytest.raises(VideoError, match=says):
        camera(text, platform)


def test_only_linux_has_dev_video():
    assert not is_camera("/dev/video0", "darwin")
    assert not is_camera("/dev/video0.mp4", "linux")


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "udp", "srt", "RTSPS"])
def test_what_is_pushed_is_live(scheme):
    assert network(f"{scheme}://host/x", 2.0).live is True


def test_time_outs_and_transport_reach_the_protocol():
    assert network("rtsp://host/x", 2.5).options == {"rtsp_transport": "tcp", "timeout": "2500000"}
    web = network("https://host/x.m3u8", 2.5)
    assert web.live is None
    assert web.options["rw_timeout"] == "2500000"


def test_passwords_stay_out_of_names():
    address = network("rtsp://me:p%40ss@host:554/a@b?c=d@e", 1.0)
    assert address.name == "rtsp://host:554/a@b?c=d@e"
    assert address.target.startswith("rtsp://me:p%40ss@")
    assert without_password("http://host/x") == "http://host/x"


def test_a_path_is_not_an_address():
    assert scheme_of(r"C:\videos\a.mp4") is None
    assert scheme_of("clips/a://b") is None
    assert scheme_of("HTTP://host") == "http"


def test_a_files_address_names_a_path():
    assert local_path("file:///a/b%20c.mp4") == local_path("file://localhost/a/b%20c.mp4") == Path("/a/b c.mp4")
    for wrong in ("file://clip.mp4", "file://host/clip.mp4", "file://"):
        with pytest.raises(VideoError, match="three slashes"):
            local_path(wrong)
        with pytest.raises(VideoError, match="three slashes"):
            video.open(wrong)


def test_a_web_address_is_encoded_once():
    assert quoted("http://h/a b/ü?x=1 2&y=%20") == "http://h/a%20b/%C3%BC?x=1%202&y=%20"
    for plain in ("https://me:pw@host:8080/live/list.m3u8?token=a+b/c==&x=~", "http://h/%7Euser/a%2Fb;p=1,2"):
        assert quoted(plain) == network(plain, 1.0).target == plain
