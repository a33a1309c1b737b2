"""Options that several commands share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

MODEL = "Model"
STREAM = "Stream"
EXPLAIN = "Explanation"
ANSWER = "Answer"

Model = Annotated[
    str, typer.Option("--model", "-m", help="nano (embedded), a hub name, or a local folder.", rich_help_panel=MODEL)
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub.", rich_help_panel=MODEL)
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)]
WeightsText = Annotated[
    str,
    typer.Option(
        "--weights", help="full, or int8: the decoder's matrices as int8, for small machines.", rich_help_panel=MODEL
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...", rich_help_panel=MODEL)]

PipelineText = Annotated[
    str,
    typer.Option(
        "--pipeline",
        "-p",
        help="Methods joined by +, e.g. recent:4, streamingllm:2048+uniform:0.3; NAME@FIELD=VALUE sets a field. See:"
        " headrace methods.",
        rich_help_panel=STREAM,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="ROLE.FIELD=VALUE", help="Set a field, e.g. memory.positions=repack.", rich_help_panel=STREAM
    ),
]
ChunkFrames = Annotated[int, typer.Option(help="Frames that are taken in together.", rich_help_panel=STREAM)]
MemoryMb = Annotated[
    float | None, typer.Option(help="Most MiB the past may take; refused when it cannot hold.", rich_help_panel=STREAM)
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="Most pixels of a frame as the model sees it, where it takes any size (Qwen-VL). The first frame's shape"
        " then fixes the size of all. Default: 134 visual tokens.",
        rich_help_panel=MODEL,
    ),
]
Prompt = Annotated[
    str,
    typer.Option(
        help="trained: prompts and positions as the model's authors wrote them; library: as transformers does.",
        rich_help_panel=MODEL,
    ),
]
Disk = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Scratch folder for blocks of the past beyond memory.ram_blocks, e.g. with --set memory.ram_blocks=200.",
        rich_help_panel=STREAM,
    ),
]
DiskMb = Annotated[
    float | None, typer.Option(help="Most MiB in --disk; beyond it the least useful blocks go.", rich_help_panel=STREAM)
]
TargetMs = Annotated[
    float | None,
    typer.Option(
        help="Milliseconds a frame may take: what can be turned down is, as little as holds; else frames are skipped.",
        rich_help_panel=STREAM,
    ),
]
KeepUp = Annotated[
    bool, typer.Option("--keep-up", help="As --target-ms, with the time between frames.", rich_help_panel=STREAM)
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames per second to look at; default: at most 2. A folder of images has 1 per second.",
        rich_help_panel=STREAM,
    ),
]

SourceText = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A video file, a folder of images, a photo, an http(s), HLS or rtsp address, camera:0, world:SEED,"
        " or - for stdin.",
    ),
]
At = Annotated[
    list[float] | None,
    typer.Option(
        help="Ask at this second of the stream. One per question, or one for all, or several for one question."
        " Without it, ask at the end.",
        rich_help_panel=STREAM,
    ),
]
Watch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INSTRUCTION",
        help="Speak up when this comes true, e.g. 'say when the star appears'. May be given several times. Adds"
        " +eos_threshold to a pipeline that names no speaker. Cheap with streamingllm; recent:N runs its N frames again"
        " after every one.",
        rich_help_panel=STREAM,
    ),
]
Start = Annotated[float | None, typer.Option(help="First second.", rich_help_panel=STREAM)]
End = Annotated[float | None, typer.Option(help="Last second.", rich_help_panel=STREAM)]
Realtime = Annotated[bool, typer.Option("--realtime", help="Play a file at its own pace.", rich_help_panel=STREAM)]
State = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep the stream in this new folder: saved now and then, when it ends, and when Ctrl-C or SIGTERM stops"
        " it.",
        rich_help_panel=STREAM,
    ),
]
CheckpointEvery = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Seconds of the clock on the wall between saves, at least: what a crash may cost; default: 60.",
        rich_help_panel=STREAM,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Go on with the stream of this folder, and keep it there; with --state it stays as it is.",
        rich_help_panel=STREAM,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="For a service: --resume where this folder holds a stream, else --state. What is said of a new stream"
        " (--pipeline, --start and the like) holds for a new one only.",
        rich_help_panel=STREAM,
    ),
]
ReconnectText = Annotated[
    str | None,
    typer.Option(
        "--reconnect",
        metavar="N|forever",
        help="Tries in a row to get a live source back that was lost or is not there yet, then the command fails;"
        " default: forever with --watch or a folder that keeps the stream, else 10 once it was there.",
        rich_help_panel=STREAM,
    ),
]

Explain = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Draw every frame with its kept and dropped tokens and reused patches, and a contact sheet, into this"
        " folder.",
        rich_help_panel=EXPLAIN,
    ),
]
ExplainEvery = Annotated[
    int | None, typer.Option(metavar="N", help="Draw every N-th frame; default: 1.", rich_help_panel=EXPLAIN)
]
ExplainMost = Annotated[
    int | None, typer.Option(metavar="N", help="Draw at most N frames; default: 600.", rich_help_panel=EXPLAIN)
]

MaxTokens = Annotated[int, typer.Option(help="Longest answer.", rich_help_panel=ANSWER)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", rich_help_panel=ANSWER)]
TopP = Annotated[float, typer.Option(help="Sample from this much probability.", rich_help_panel=ANSWER)]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        help="Above 1: rather no token that is there already; default: what the checkpoint asks for.",
        rich_help_panel=ANSWER,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.", rich_help_panel=ANSWER)]
Frames = Annotated[
    str | None,
    typer.Option(help="Frames the memory shall bring back, as 3,8-12, instead of looking up.", rich_help_panel=ANSWER),
]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer.", rich_help_panel=ANSWER)]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else on stdout.")]


def numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Read whole numbers and ranges of them, as ``3,8-12``.

    Raises:
        ValueError: It is something else.
    """
    found: list[int] = []
    for part in [] if text is None else text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"{option}: {text!r} must be whole numbers and ranges of them, as 3,8-12")
        found += range(first, last + 1)
    return tuple(found)


def tries(text: str | None, *, endless: bool) -> int | None:
    """Read ``--reconnect``: how often to try, None for ever.

    Args:
        text: What was given.
        endless: Try for ever where nothing is given; else 10 times.

    Raises:
        ValueError: It is something else.
    """
    if text is None:
        return None if endless else 10
    if text == "forever":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ValueError(f"--reconnect: must be a whole number of tries, or forever, not {text!r}")
    return int(text)


def utf8(text: str) -> str:
    """A text as it was typed: where the locale is not UTF-8, Python reads the bytes of arguments as something else."""
    try:
        return os.fsencode(text).decode("utf-8")
    except ValueError:
        return text


def endings(stop: list[str] | None) -> tuple[str, ...]:
    """Read ``--stop``.

    Raises:
        ValueError: One is empty.
    """
    if "" in (stop or ()):
        raise ValueError("--stop: must be a text that ends the answer, not an empty one")
    return tuple(map(utf8, stop or ()))
