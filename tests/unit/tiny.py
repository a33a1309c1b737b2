"""A tiny random model in the real layout, and the command line run in this process."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from headrace.backbones import plain
from headrace.cli import app
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, vocabulary


def save_tiny(folder: Path) -> str:
    """Write a tiny random model that knows the world's words; returns the folder."""
    tokenizer = plain.word_tokenizer(vocabulary(tuple(ALL_KINDS), ALL_INSTRUCTIONS))
    plain.save(plain.build(plain.tiny_config(len(tokenizer), clip="frame"), gain=6.0), tokenizer, folder)
    return str(folder)


def run(*args: str) -> tuple[int, str, str]:
    """Run a command: exit status, stdout, stderr; raises what is no clean exit."""
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def objects(stdout: str) -> list[dict]:
    """Read one JSON object per line."""
    return [json.loads(line) for line in stdout.splitlines()]
