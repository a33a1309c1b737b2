"""Who may import whom. Every checker takes a path below src/headrace and its syntax tree, and returns complaints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

# Rooms in import order; an import points to a lower number. Rooms with one number never import each other.
RANK = {
    "types": 0,
    "ops": 1,
    "protocols": 2,
    "cache": 3,
    "video": 4,
    "backbones": 4,
    "methods": 4,
    "registry": 5,
    "engine": 6,
    "__init__": 6.5,  # the package itself: what `import headrace` offers
    "bench": 7,
    "server": 7,
    "agents": 7,
    "train": 7,
    "cli": 8,
    "__main__": 9,
}

# Libraries behind one door, by the room that holds the key.
DOORS = {
    "transformers": "backbones",
    "av": "video",
    "fastapi": "server",
    "uvicorn": "server",
    "starlette": "server",
    "websockets": "server",
}


def room_of(path: PurePosixPath) -> str:
    """Name the room a file belongs to: its first folder, or its own name at the top."""
    return path.parts[0].removesuffix(".py")


def _absolute(path: PurePosixPath, node: ast.ImportFrom) -> str:
    """Write a ``from`` import's module in full, relative dots resolved."""
    if not node.level:
        return node.module or ""
    package = ("headrace", *path.parent.parts)
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _literal(node: ast.Call) -> str | None:
    """Give the module name in ``import_module("...")`` or ``__import__("...")`` when it is spelled out."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return None
    argument = node.args[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


def imports(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and full module name of every import, also inside functions and ``TYPE_CHECKING`` blocks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(path, node)
            if module.split(".")[0] == "headrace":  # `from headrace import x`: x may be a room or a module
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module
        elif isinstance(node, ast.Call) and (name := _literal(node)):
            yield node.lineno, name


def _rooms(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line, room and full name parts of every import of headrace's own modules."""
    for line, name in imports(path, tree):
        parts = name.split(".")
        if parts[0] == "headrace":
            room = parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"
            yield line, room, parts


def check_room(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """A file stands in one of the known rooms."""
    room = room_of(path)
    return [] if room in RANK else [f"{path}: no room is called {room!r}"]


def check_arrows(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """Imports point to earlier rooms; rooms with one rank never import each other."""
    own = room_of(path)
    return [
        f"{path}:{line}: {own} may not import {room}"
        for line, room, _ in _rooms(path, tree)
        if room != own and RANK[room] >= RANK.get(own, 0)
    ]


def check_methods_apart(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """A method never imports another method: nothing below methods/ imports from methods."""
    if room_of(path) != "methods":
        return []
    return [
        f"{path}:{line}: a method may not import {'.'.join(parts)}"
        for line, room, parts in _rooms(path, tree)
        if room == "methods"
    ]


def check_doors(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """transformers comes in through backbones, av through video, web frameworks through server."""
    return [
        f"{path}:{line}: only {DOORS[top]} imports {top}"
        for line, name in imports(path, tree)
        if (top := name.split(".")[0]) in DOORS and room_of(path) != DOORS[top]
    ]


CHECKS = (check_room, check_arrows, check_methods_apart, check_doors)
