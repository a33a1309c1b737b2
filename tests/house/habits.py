"""What code may not do: leave marks on a model, name a device, read its surroundings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from house.arrows import imports, room_of

_CONFIG_READERS = {"configparser", "dotenv", "tomllib", "toml", "yaml"}
_CONFIG_FILE = re.compile(r"\.(toml|ini|cfg|conf|ya?ml|env)$")
_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expandvars", "load_dotenv"}
_PROGRAMS = ("bench", "cli", "train", "__main__")  # have a process of their own
_FLOATS = {"zeros", "ones", "empty", "full", "eye", "rand", "randn", "normal", "linspace", "tensor", "as_tensor"}
_HOOK = re.compile(r"register_\w*hook\w*$")

# Folders that exist on one machine only. Spelled in pieces, so that this file does not name them itself.
_MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])/(?:" + "|".join(("home", "root", "Users", "work", "tmp", "opt", "mnt")) + r")/\w"
    r"|\.\./" + r"shared\b"
    r"|[A-Z]:\\\\?Users\b"
)


def _below_cli(path: PurePosixPath) -> bool:
    return room_of(path) not in ("cli", "__main__")


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string but docstrings (strings that stand alone)."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.lineno, node.value


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every name, attribute, argument, definition and import."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(word := getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), word


def check_device_word(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """The word cuda stands only in cli, backbones/graphs.py and bench; elsewhere the device comes with the tensors."""
    if room_of(path) in ("cli", "bench") or path == PurePosixPath("backbones/graphs.py"):
        return []
    words = (*_strings(tree), *_names(tree))
    return [f"{path}:{line}: names cuda ({word[:40]!r})" for line, word in words if "cuda" in word.lower()]


def check_environment(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """Below cli nobody reads the environment."""
    if not _below_cli(path):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _ENVIRONMENT:
            found.append(f"{path}:{node.lineno}: reads the environment ({node.attr})")
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path", "dotenv"):
            names = {alias.name for alias in node.names} & _ENVIRONMENT
            found += [f"{path}:{node.lineno}: reads the environment ({name})" for name in sorted(names)]
    return found


def check_configuration(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """Below cli nobody reads a configuration file of the user, or keeps its own in a global."""
    if not _below_cli(path):
        return []
    found = [
        f"{path}:{line}: reads configuration files ({name})"
        for line, name in imports(path, tree)
        if name.split(".")[0] in _CONFIG_READERS
    ]
    found += [
        f"{path}:{line}: names a configuration file ({word[-40:]!r})"
        for line, word in _strings(tree)
        if _CONFIG_FILE.search(word)
    ]
    found += [
        f"{path}:{node.lineno}: changes a global ({', '.join(node.names)})"
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    return found


def check_fingerprints(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """No hook is registered, no ``forward`` replaced, no attribute set on anything but ``self`` by name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _HOOK.match(node.attr):
            found.append(f"{path}:{node.lineno}: registers a hook ({node.attr})")
        elif isinstance(node, ast.Attribute) and node.attr in ("forward", "__class__") and _is_target(node):
            found.append(f"{path}:{node.lineno}: replaces {node.attr}")
        elif isinstance(node, ast.Call) and _sets_attribute(node):
            found.append(f"{path}:{node.lineno}: sets an attribute by name")
    return found


def _is_target(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)


def _sets_attribute(node: ast.Call) -> bool:
    """Tell a ``setattr``, ``delattr`` or ``x.__setattr__`` call whose object is not ``self``."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("setattr", "delattr", "__setattr__", "__delattr__"):
        return False
    target = node.args[0] if node.args else None
    return not (isinstance(target, ast.Name) and target.id == "self")


def check_number_types(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """Nobody makes a tensor in torch's default number type: the host sets it, and others while they load a model."""
    if room_of(path) in _PROGRAMS or path.parts[:2] == ("backbones", "plain"):
        return []
    return [
        f"{path}:{node.lineno}: makes a tensor without a dtype ({ast.unparse(node)[:60]})"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _takes_the_default(node)
    ]


def _takes_the_default(node: ast.Call) -> bool:
    """Tell a call such as ``torch.zeros(3)``; of ranges and fillings, what is no whole number by the look of it."""
    function = node.func
    if not (isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "torch"):
        return False
    if any(keyword.arg == "dtype" for keyword in node.keywords):
        return False
    if function.attr == "arange":
        return any(isinstance(x, ast.Constant) and isinstance(x.value, float) for x in ast.walk(node))
    if function.attr == "full" and len(node.args) == 2:
        filling = node.args[1].operand if isinstance(node.args[1], ast.UnaryOp) else node.args[1]
        return not (isinstance(filling, ast.Constant) and type(filling.value) is int)
    return function.attr in _FLOATS


def check_machine_paths(path: PurePosixPath, text: str) -> list[str]:
    """No tracked file names a folder of one machine."""
    return [
        f"{path}:{number}: names a machine's folder ({hit[0]!r})"
        for number, line in enumerate(text.splitlines(), 1)
        if (hit := _MACHINE_PATH.search(line))
    ]


CHECKS = (check_device_word, check_environment, check_configuration, check_fingerprints, check_number_types)
