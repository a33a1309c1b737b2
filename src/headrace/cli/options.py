"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = "Model"
STREAM = "Stream"
ANSWER = "Answer"

Model = Annotated[
    str, typer.Option("--model", "-m", help="nano (embedded), a hub name, or a local folder.", rich_help_panel=MODEL)
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub.", rich_help_panel=MODEL)
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...", rich_help_panel=MODEL)]

PipelineText = Annotated[
    str,
    typer.Option(
        "--pipeline",
        "-p",
        help="Methods joined by +, e.g. dense, recent:4, streamingllm:2048+uniform:0.3. See: headrace methods.",
        rich_help_panel=STREAM,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="ROLE.FIELD=VALUE", help="Set a field, e.g. compressor.keep=60.", rich_help_panel=STREAM
    ),
]
ChunkFrames = Annotated[int, typer.Option(help="Frames that are taken in together.", rich_help_panel=STREAM)]
MemoryMb = Annotated[
    float | None, typer.Option(help="Most MiB the past may take; refused when it cannot hold.", rich_help_panel=STREAM)
]
Fps = Annotated[
    float | None, typer.Option(help="Frames per second to look at; default: all of them.", rich_help_panel=STREAM)
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else on stdout.")]
