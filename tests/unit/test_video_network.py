"""Network sources against a real local server that answers, hangs, dies and comes back."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from headrace import video
from unit.video_clips import every, make_clip, make_hls, number_of, picture

QUICK = video.Reconnect(tries=2, first_s=0.01, longest_s=0.02)
EAGER = {"analyzeduration": "200000"}  # look at the first 0.2 s only before opening counts as done


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves a folder with ranges; paths in ``server.special`` are answered by a function instead."""

    def do_GET(self):
        self.server.seen.append(self.path)
        special = self.server.special.get(self.path)
        if special is not None:
            special(self)
            return
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(span[1]) if span else 0
        last = int(span[2]) if span and span[2] else len(data) - 1
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def begin(self):
        """Start an answer without a length, as a live stream has none."""
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()

    def log_message(self, *args):
        pass

    def handle(self):
        with contextlib.suppress(OSError):  # the reader went away
            super().handle()


@pytest.fixture
def server(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.folder, server.special, server.seen = tmp_path, {}, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def numbers(frames):
    return [number_of(f.image) for f in frames]


def test_tests_ask_no_proxy(server, tmp_path):
    """As ``conftest`` has it, whatever the machine's proxy is."""
    make_clip(tmp_path / "c.mp4", every(40, 4))
    words = "import conftest, sys; from headrace import video; print(len(list(video.open(sys.argv[1]))))"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", words, f"{server.url}/c.mp4"],
        env={k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | proxies | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_file_on_the_web_is_read_at_our_pace_and_loses_nothing(server, tmp_path, suffix):
    clip = make_clip(tmp_path / f"c.{suffix}", every(40, 40))
    with video.open(f"{server.url}/c.{suffix}", queue_frames=1) as s:
        assert not s.live
        frames = list(s)
    assert numbers(frames) == list(range(40))
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(40)])
    assert s.dropped == 0
    assert s.warnings == []
    with video.open(f"{server.url}/c.{suffix}", start=1.0, fps=5) as s, video.open(clip, start=1.0, fps=5) as local:
        assert all(torch.equal(a.image, b.image) for a, b in zip(s, local, strict=True))


def test_a_web_file_that_breaks_off_gives_what_came_and_says_so(server, tmp_path):
    data = make_clip(tmp_path / "c.mkv", every(40, 50)).read_bytes()

    def half(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) * 6 // 10])

    server.special["/half.mkv"] = half
    with video.open(f"{server.url}/half.mkv", options={"reconnect": "0"}) as s:
        frames = list(s)
    assert not s.live
    assert 5 < len(frames) < 50
    assert f"the {len(frames)} frames that decode were used" in s.warnings[0]


def test_a_closed_playlist_is_finite(server, tmp_path):
    make_hls(tmp_path, make_clip(tmp_path / "c.mp4", every(40, 50), b_frames=2), closed=True)
    assert len(list(tmp_path.glob("*.ts"))) > 2
    with video.open(f"{server.url}/list.m3u8") as s:
        assert (s.live, s.duration_s, s.num_frames) == (False, pytest.approx(2.0, abs=0.05), 50)
        frames = list(s)
    assert numbers(frames) == list(range(50))
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(50)])
    with video.open(f"{server.url}/list.m3u8", start=1.0) as s:
        assert numbers(s) == list(range(25, 50))


def test_an_open_playlist_is_live_until_it_is_closed(server, tmp_path):
    playlist = make_hls(tmp_path, make_clip(tmp_path / "c.mp4", every(40, 50)), closed=False)
    assert "ENDLIST" not in playlist.read_text()
    with video.open(f"{server.url}/list.m3u8", queue_frames=99, reconnect=QUICK) as s:
        assert (s.live, s.duration_s, s.num_frames) == (True, None, None)
        first = next(s)
        playlist.write_text(playlist.read_text() + "#EXT-X-ENDLIST\n")
        frames = [first, *s]
    assert [f.index for f in frames] == list(range(len(frames)))
    assert frames[0].time_s == 0.0
    assert numbers(frames) == list(range(50 - len(frames), 50))  # a live playlist is joined near its end
    assert not any(f.gap for f in frames)


def live_server(server, tmp_path, *acts):
    """Make ``/live.ts``: each connection plays its own act; later ones find nothing."""
    data = make_clip(tmp_path / "live.bin", every(40, 50), format="mpegts").read_bytes()
    turn = iter(acts)

    def play(request):
        act = next(turn, "gone")
        if act == "gone":
            request.send_error(404)
            return
        request.begin()
        request.wfile.write(data if act != "half" else data[: len(data) // 188 // 2 * 188])
        if act == "hang":
            server.released.wait(10)

    server.special["/live.ts"] = play
    return f"{server.url}/live.ts"


def test_a_live_server_that_dies_and_comes_back_makes_a_gap(server, tmp_path):
    url = live_server(server, tmp_path, "half", "gone", "whole")
    with video.open(url, queue_frames=99, reconnect=QUICK) as s:
        assert s.live
        frames = list(s)
    gaps = [i for i, f in enumerate(frames) if f.gap]
    assert len(gaps) == s.gaps == 1
    assert numbers(frames) == [*range(gaps[0]), *range(50)]
    assert [f.index for f in frames] == list(range(len(frames)))
    assert all(b.time_s > a.time_s for a, b in itertools.pairwise(frames))
    assert frames[-1].time_s - frames[gaps[0]].time_s == pytest.approx(49 * 0.04)
    assert any("is back" in line for line in s.warnings)
    assert "given up after 2 tries" in s.warnings[-1]
    assert "404" in s.warnings[-1]


def test_a_live_sender_that_restarts_again_and_again_does_not_stop_time(server, tmp_path):
    data = make_clip(tmp_path / "live.bin", every(40, 15), format="mpegts").read_bytes()

    def play(request):
        request.begin()
        request.wfile.write(data * 20)

    server.special["/live.ts"] = play
    with video.open(f"{server.url}/live.ts", queue_frames=999, reconnect=video.Reconnect(tries=0)) as s:
        frames = list(s)
    assert (s.live, len(frames)) == (True, 300)
    assert frames[-1].time_s == pytest.approx(299 * 0.04)


def test_a_wild_stamp_is_held_against_the_clock_that_was_given(server, tmp_path):
    pieces = [
        make_clip(tmp_path / "live.bin", ms, format="mpegts").read_bytes() for ms in ([0, 40], [72_000_000], [120])
    ]

    def play(request):
        request.begin()
        request.wfile.write(b"".join(pieces))

    server.special["/live.ts"] = play
    for clock, third_s in ((lambda: 0.0, 0.08), (itertools.count(0, 72_000).__next__, 72_000.0)):
        with video.open(f"{server.url}/live.ts", clock=clock, reconnect=video.Reconnect(tries=0)) as s:
            assert [f.time_s for f in s][2] == pytest.approx(third_s)


def test_a_live_server_that_falls_silent_is_left_after_the_read_time_out(server, tmp_path):
    url = live_server(server, tmp_path, "hang", "whole")
    began = time.monotonic()
    with video.open(url, queue_frames=99, reconnect=QUICK, read_timeout_s=0.4, options=EAGER) as s:
        frames = list(s)
    assert time.monotonic() - began < 5
    (gap,) = [i for i, f in enumerate(frames) if f.gap]
    assert numbers(frames) == [*range(gap), *range(50)]
    assert 0.3 < frames[gap].time_s - frames[gap - 1].time_s < 3  # the silence has passed in stream time, too
    assert any("time-out" in line for line in s.warnings)


def test_close_does_not_wait_for_a_silent_server(server, tmp_path):
    url = live_server(server, tmp_path, "hang")
    s = video.open(url, read_timeout_s=3.0)
    next(s)
    time.sleep(0.2)  # the thread is inside a read now
    began = time.monotonic()
    s.close()
    assert time.monotonic() - began < 2.0
    assert list(s) == []


def test_a_slow_consumer_of_a_live_server_loses_the_oldest(server, tmp_path):
    url = live_server(server, tmp_path, "whole")
    with video.open(url, queue_frames=3, reconnect=video.Reconnect(tries=0)) as s:
        next(s)
        s._thread._thread.join(5)
        assert numbers(s) == [47, 48, 49]
    assert s.dropped > 0


def test_live_can_be_said_by_hand(server, tmp_path):
    make_clip(tmp_path / "c.mp4", every(40, 5))
    with video.open(f"{server.url}/c.mp4", live=True, reconnect=video.Reconnect(tries=0)) as s:
        assert s.live
        assert len(list(s)) == 5
    url = live_server(server, tmp_path, "whole")
    with video.open(url, live=False) as s:
        assert not s.live
        assert len(list(s)) == 50


def refused() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_an_unreachable_address_is_one_clear_line(scheme):
    with pytest.raises(video.VideoError, match=f"cannot open {scheme}://127.*refused") as problem:
        video.open(f"{scheme}://me:secret@127.0.0.1:{refused()}/x.mp4")
    assert "secret" not in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_camera_that_is_not_there_yet_is_tried_where_that_was_asked_for(tmp_path):
    (tmp_path / "c.ts").write_bytes(make_clip(tmp_path / "live.bin", every(40, 20), format="mpegts").read_bytes())
    port, waits, servers = refused(), [], []
    url, policy = f"http://127.0.0.1:{port}/c.ts", video.Reconnect(tries=2, at_first=True)

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
            servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", port), handler))
            threading.Thread(target=servers[0].serve_forever, args=(0.01,), daemon=True).start()

    with video.open(url, reconnect=policy, sleep=sleep) as s:
        assert numbers(s) == list(range(20))
        assert s.warnings == [
            f"cannot open {url}: the connection was refused; trying again in {delay} s" for delay in (0.5, 1.0)
        ]
    with pytest.raises(video.VideoError, match="404"):
        video.open(f"{url}x", reconnect=policy, sleep=sleep)
    servers[0].shutdown()
    servers[0].server_close()
    with pytest.raises(video.VideoError, match="refused"):
        video.open(url, sleep=sleep)
    assert waits == [0.5, 1.0], "neither is a wrong address tried again, nor any where nothing was said"
    with pytest.raises(video.VideoError, match=r"refused$"):
        video.open(url, reconnect=policy, sleep=waits.append)
    assert waits[2:] == [0.5, 1.0]


@pytest.mark.parametrize(("path", "says"), [("/nothing.mp4", "404"), ("/page.mp4", "not a video")])
def test_a_wrong_page_is_one_clear_line(server, tmp_path, path, says):
    (tmp_path / "page.mp4").write_text("<html>hello</html>" * 50)
    with pytest.raises(video.VideoError, match=says):
        video.open(server.url + path)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_never_answers_is_given_up_in_bounded_time(scheme):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        began = time.monotonic()
        with pytest.raises(video.VideoError, match=r"no answer within|time-out"):
            video.open(f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}/x", open_timeout_s=0.4)
        assert time.monotonic() - began < 2


def test_unknown_kinds_of_address_are_named():
    with pytest.raises(video.VideoError, match="gopher:// is not a known kind of address"):
        video.open("gopher://me:secret@host/x")


PUSH = """
import av, sys, time
clip, url = sys.argv[1:]
source = av.open(clip)
stream = source.streams.video[0]
for _ in range(100):  # until somebody listens
    try:
        out = av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"})
        copy = out.add_stream_from_template(stream)
        out.start_encoding()
        break
    except OSError:
        time.sleep(0.05)
for packet in source.demux(stream):
    if packet.dts is not None:
        packet.stream = copy
        out.mux(packet)
out.close()
"""


def test_rtsp_is_live(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 50))
    url = f"rtsp://127.0.0.1:{refused()}/camera"
    options = {"rtsp_flags": "listen", "listen_timeout": "10"}
    # the sender has a process of its own: PyAV connects an output without letting other threads run
    with subprocess.Popen([sys.executable, "-c", PUSH, str(clip), url]) as sender:
        with video.open(url, options=options, queue_frames=99, reconnect=video.Reconnect(tries=0)) as s:
            assert (s.live, s.name) == (True, url)
            frames = list(s)
        sender.wait(10)
    assert numbers(frames) == list(range(50))
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(50)], abs=0.001)


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["index last", "index first"])
def test_a_server_without_ranges(server, tmp_path, options):
    data = make_clip(tmp_path / "c.mp4", every(40, 20), options=options).read_bytes()

    def whole(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    server.special["/plain.mp4"] = whole
    with video.open(f"{server.url}/plain.mp4", start=0.4) as s:
        frames = list(s)
    assert not s.live
    assert [number_of(f.image) for f in frames] == list(range(10, 20))
    assert [("fetched whole" in line) for line in s.warnings] == [True] * (not options)


def test_a_user_is_named_where_ranges_are_asked_for_and_odd_characters_are_encoded(server, tmp_path):
    data = make_clip(tmp_path / "c.mp4", every(40, 10)).read_bytes()
    users = []

    def whole(handler):
        users.append(handler.headers.get("Authorization"))
        handler.send_response(200 if users[-1] else 401)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    server.special["/my%20vid%C3%A9o.mp4"] = whole
    with video.open(f"{server.url.replace('//', '//me:p%40ss@')}/my vidéo.mp4") as s:
        assert [number_of(f.image) for f in s] == list(range(10))
        assert "p%40ss" not in s.name
    assert users[0] == "Basic " + base64.b64encode(b"me:p@ss").decode()


def greeting(listener):
    """A server that speaks another language."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(99)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_an_address_that_makes_no_sense_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greeting, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "127.0.0.1:80x", "me:secret@127.0.0.1:1", "exa mple"):
            with pytest.raises(video.VideoError) as problem:
                video.open(f"http://{address}/c.mp4", open_timeout_s=5, read_timeout_s=5)
            assert str(problem.value).startswith("cannot open http://")
            assert "\n" not in str(problem.value)
            assert "secret" not in str(problem.value)


def test_a_live_stream_that_is_gone_on_with_begins_anew(server, tmp_path):
    data = make_clip(tmp_path / "c.ts", every(40, 20)).read_bytes()

    def live(handler):
        handler.begin()
        handler.wfile.write(data)

    server.special["/live"] = live
    once = {"options": EAGER, "reconnect": video.Reconnect(tries=0), "queue_frames": 99}  # a slow reader loses none
    with video.open(f"{server.url}/live", after=0.4, **once) as s:
        assert s.restarts
        assert numbers(s) == list(range(20))


def test_whom_an_address_is_redirected_to_learns_no_password(server, tmp_path):
    data, seen = make_clip(tmp_path / "c.mp4", every(40, 10)).read_bytes(), []

    def elsewhere(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.send_response(302)
        handler.send_header("Location", f"http://localhost:{server.server_port}/other.mp4")
        handler.end_headers()

    def whole(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    server.special |= {"/c.mp4": elsewhere, "/other.mp4": whole}
    with video.open(f"{server.url.replace('//', '//me:pw@')}/c.mp4") as s:
        assert len(list(s)) == 10
    assert seen[0] is not None
    assert seen[1] is None


def test_a_redirect_within_a_server_keeps_the_user(server, tmp_path):
    data = make_clip(tmp_path / "c.mp4", every(40, 10)).read_bytes()

    def moved(handler):
        handler.send_response(302)
        handler.send_header("Location", "/real.mp4")
        handler.end_headers()

    def real(handler):
        known = handler.headers.get("Authorization") is not None
        handler.send_response(200 if known else 401)
        handler.send_header("Content-Length", str(len(data) if known else 0))
        handler.end_headers()
        handler.wfile.write(data if known else b"")

    server.special |= {"/v.mp4": moved, "/real.mp4": real}
    with video.open(f"{server.url.replace('//', '//me:pw@')}/v.mp4") as s:
        assert len(list(s)) == 10
    assert any("fetched whole" in line for line in s.warnings)


def test_a_camera_that_sends_jpegs_runs_on_the_clock_on_the_wall(server):
    """Its container has no times; FFmpeg makes up 25 frames per second."""

    def play(request):
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        for i in range(14):
            data = io.BytesIO()
            Image.fromarray(picture(i)).save(data, "JPEG")
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data.getvalue())}\r\n\r\n"
            request.wfile.write(head.encode() + data.getvalue() + b"\r\n")
            time.sleep(0.1)

    server.special["/camera"] = play
    with video.open(f"{server.url}/camera", queue_frames=99, reconnect=video.Reconnect(tries=0)) as s:
        assert (s.live, s.fps) == (True, None)
        frames = list(s)
    assert len(frames) > 10
    assert 0.8 < frames[-1].time_s < 5


def held_back(tmp_path):
    """An open playlist of 2 s, all of it and without its last two pieces."""
    playlist = make_hls(tmp_path, make_clip(tmp_path / "c.mp4", every(40, 50), gop=10), closed=False)
    whole = playlist.read_text().replace("TARGETDURATION:0", "TARGETDURATION:1")  # it is asked for twice as often
    playlist.write_text("#EXTINF".join(whole.split("#EXTINF")[:-2]))
    return playlist, whole


def test_a_playlist_may_take_longer_than_the_read_time_out_for_its_next_piece(server, tmp_path):
    playlist, whole = held_back(tmp_path)
    with video.open(f"{server.url}/list.m3u8", queue_frames=99, reconnect=QUICK, read_timeout_s=0.4) as s:
        first = next(s)
        time.sleep(1.2)
        playlist.write_text(whole + "#EXT-X-ENDLIST\n")
        frames = [first, *s]
    assert [line.partition(" was ")[2] for line in s.warnings] == ["lost (it ended); trying again in 0.0 s"]
    assert not any(f.gap for f in frames)
    assert numbers(frames) == list(range(50 - len(frames), 50))


def test_a_playlist_that_stands_still_is_lost_after_a_while_and_says_so(server, tmp_path, monkeypatch):
    held_back(tmp_path)
    monkeypatch.setattr("headrace.video.dispatch._PATIENCE_S", 1.0)
    with video.open(f"{server.url}/list.m3u8", reconnect=video.Reconnect(tries=0), read_timeout_s=0.4) as s:
        list(s)
    assert s.warnings == [f"{server.url}/list.m3u8 ended: nothing arrived for 1 s"]


def test_a_playlist_that_comes_back_shows_nothing_twice(server, tmp_path, monkeypatch):
    playlist, whole = held_back(tmp_path)
    monkeypatch.setattr("headrace.video.dispatch._PATIENCE_S", 1.0)
    policy, quiet = video.Reconnect(tries=1, first_s=0.01), {"read_timeout_s": 0.4}

    def come_back(_):
        playlist.write_text(whole)

    with video.open(f"{server.url}/list.m3u8", queue_frames=99, reconnect=policy, sleep=come_back, **quiet) as s:
        frames = list(itertools.islice(s, 60))  # what is shown again and again would never end
    assert numbers(frames) == list(range(50 - len(frames), 50))
    assert sum(f.gap for f in frames) == 1
    assert [b.time_s - a.time_s for a, b in itertools.pairwise(frames)] == pytest.approx([0.04] * (len(frames) - 1))
    assert "given up after 1 tries" in s.warnings[-1], "what was shown before is no sign of life"
