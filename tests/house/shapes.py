"""How large things may be, what they are called and what they say about themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from statistics import median, quantiles

MAX_FILE = 400
MAX_FUNCTION = 60
MAX_ARGUMENTS = 6
MAX_MEDIAN = 150
MAX_P90 = 300
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(node: ast.AST) -> Iterator[tuple[Function, bool]]:
    """Yield every function below a node, and whether it stands directly in a class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child, isinstance(node, ast.ClassDef)
        yield from _functions(child)


def _docstring_lines(node: Function) -> int:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def _decorators(node: Function) -> set[str]:
    return {d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "") for d in node.decorator_list}


def check_function_length(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """A function has at most 60 lines from its ``def`` to its end, its docstring not counted."""
    found = []
    for node, _ in _functions(tree):
        assert node.end_lineno is not None
        length = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
        if length > MAX_FUNCTION:
            found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION}")
    return found


def check_arguments(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """A function takes at most six positional-or-keyword arguments, ``self`` and ``cls`` not counted.

    Not so a kernel: it has no other way to get its tensors and their sizes.
    """
    found = []
    for node, in_class in _functions(tree):
        if "jit" in _decorators(node):
            continue
        bound = in_class and "staticmethod" not in _decorators(node)
        count = len(node.args.posonlyargs) + len(node.args.args) - bound
        if count > MAX_ARGUMENTS:
            found.append(f"{path}:{node.lineno}: {node.name} takes {count} arguments, more than {MAX_ARGUMENTS}")
    return found


def check_docstrings(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """Every public function, class and method has a docstring."""

    def visit(body: Sequence[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.If | ast.Try):
                yield from visit(node.body, prefix)
            elif isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                overload = isinstance(node, Function) and _decorators(node) & {"overload", "setter"}
                if not overload and not ast.get_docstring(node):
                    yield f"{path}:{node.lineno}: {prefix}{node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{node.name}.")

    return list(visit(tree.body, ""))


def check_name(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """No file or folder has a name that says nothing."""
    names = [part.removesuffix(".py").strip("_") for part in path.parts]
    return [f"{path}: {name} says nothing about what is inside" for name in names if name in FORBIDDEN_NAMES]


def check_one_method(path: PurePosixPath, tree: ast.Module) -> list[str]:
    """A method's file defines exactly one public class with a ``card``."""
    if path.parts[0] != "methods" or len(path.parts) != 3 or path.name == "__init__.py":
        return []
    with_card = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            targets = [t for n in node.body for t in (n.targets if isinstance(n, ast.Assign) else [])]
            targets += [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            if any(isinstance(t, ast.Name) and t.id == "card" for t in targets):
                with_card.append(node.name)
    return [] if len(with_card) == 1 else [f"{path}: one public class with a card is wanted, found {with_card}"]


def check_file_length(path: PurePosixPath, num_lines: int) -> list[str]:
    """A file has at most 400 lines."""
    return [f"{path}: {num_lines} lines, more than {MAX_FILE}"] if num_lines > MAX_FILE else []


def check_distribution(num_lines: Sequence[int]) -> list[str]:
    """Over the package, half of the files have at most 150 lines and nine in ten at most 300."""
    found = []
    if (half := median(num_lines)) > MAX_MEDIAN:
        found.append(f"the median file has {half:.0f} lines, more than {MAX_MEDIAN}")
    if len(num_lines) > 1 and (p90 := quantiles(num_lines, n=10, method="inclusive")[-1]) > MAX_P90:
        found.append(f"one file in ten has more than {p90:.0f} lines, more than {MAX_P90}")
    return found


CHECKS = (check_function_length, check_arguments, check_docstrings, check_name, check_one_method)
