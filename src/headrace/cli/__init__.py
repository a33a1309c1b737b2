"""The command line: the only room that reads arguments and the terminal."""

from headrace.cli.app import app, main

__all__ = ["app", "main"]
