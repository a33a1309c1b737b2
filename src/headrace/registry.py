"""Find methods by file name, build them from keywords, and parse pipeline names.

A method is found because its file stands in ``methods/<role>/``; nothing is listed anywhere else.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import importlib
import inspect
import io
import pkgutil
import textwrap
import tokenize
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import headrace.methods

ROLES = {
    "encoders": "encoder",
    "compressors": "compressor",
    "pruners": "pruner",
    "memories": "memory",
    "retrievers": "retriever",
    "speakers": "speaker",
}

MOST = 2**31  # of any whole number: sums and products of a few of them fit in 64 bits


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A registered method: its file name, its role, and its class."""

    name: str
    role: str
    method: Any


@cache
def entries() -> Mapping[str, Entry]:
    """All methods by name, in the order of roles and names.

    Raises:
        ValueError: A file cannot be imported, defines no or several method classes, or two files share a name.
    """
    found: dict[str, Entry] = {}
    for folder, role in ROLES.items():
        package = importlib.import_module(f"{headrace.methods.__name__}.{folder}")
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
            try:
                module = importlib.import_module(f"{package.__name__}.{info.name}")
            except Exception as error:  # somebody is writing it
                kind = type(error).__name__
                raise ValueError(f"methods/{folder}/{info.name}.py: cannot be used ({kind}: {error})") from error
            classes = [
                value
                for value in vars(module).values()
                if inspect.isclass(value) and value.__module__ == module.__name__ and hasattr(value, "card")
            ]
            if len(classes) != 1:
                raise ValueError(
                    f"methods/{folder}/{info.name}.py: must define one class with a card, not {len(classes)}"
                )
            if info.name in found:
                other = found[info.name].method.__module__.split(".")[-2]
                raise ValueError(f"methods/{folder}/{info.name}.py: methods/{other} has a method of this name already")
            found[info.name] = Entry(info.name, role, classes[0])
    return found


@cache
def presets() -> Mapping[str, str]:
    """All presets: a name, and the pipeline text it stands for."""
    found: dict[str, str] = {}
    for entry in entries().values():
        for name, text in entry.method.presets.items():
            if name in found:
                raise ValueError(f"preset {name!r}: {entry.name} and another method both have one of this name")
            found[name] = text
    return found


def lookup(name: str) -> Entry:
    """Find a method.

    Raises:
        ValueError: There is none of this name; the message says which are close.
    """
    found = entries().get(name)
    if found is None:
        known = [*entries(), *presets()]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"unknown method {name!r}; {hint}")
    return found


def meanings(method: type[Any]) -> dict[str, str]:
    """What each parameter of a method is: the comment behind its field; nothing where there is no source."""
    found: dict[str, str] = {}
    for kind in reversed(method.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(kind))
        except OSError:
            continue
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        (body,) = ast.parse(source).body
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.lineno in comments:
                found[node.target.id] = comments[node.lineno]
    names = (field.name for field in dataclasses.fields(method))
    return {name: found[name] for name in names if name in found}


def account(method: type[Any]) -> list[str]:
    """How a method works: the paragraphs of its module's docstring but for the title and the shape letters."""
    text = inspect.getdoc(inspect.getmodule(method)) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")[1:]]
    return [part for part in paragraphs if not part.startswith(("Shape", "``"))]


def code_of(method: type[Any]) -> str:
    """Hash of what a method's file does: comments and docstrings apart, "" where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(inspect.getmodule(method)))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def fields(name: str) -> dict[str, Any]:
    """The parameters of a method and their defaults."""
    return {field.name: field.default for field in dataclasses.fields(lookup(name).method)}


def build(name: str, **values: Any) -> Any:
    """Build a method from keywords, e.g. ``build("uniform", keep=60)``.

    Raises:
        ValueError: The method or a parameter is unknown, or a value is out of range.
    """
    method = lookup(name).method
    _check_values(name, method, values)
    return method(**values)


def change(method: Any, **values: Any) -> Any:
    """Build a method like another, with some fields changed.

    Raises:
        ValueError: A field is unknown, or a value is out of range.
    """
    _check_values(name_of(method), method, values)
    return dataclasses.replace(method, **values)


def _check_values(name: str, method: Any, values: Mapping[str, Any]) -> None:
    """Refuse unknown fields and values of the wrong type."""
    known = {field.name: field for field in dataclasses.fields(method)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}; parameters: {', '.join(known) or 'none'}")
        _check_type(name, known[key], value)


def _check_type(name: str, field: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value whose type the field's annotation does not name, and numbers nothing can count to."""
    allowed = {part.strip() for part in str(field.type).split("|")}
    given = "None" if value is None else type(value).__name__
    if given not in allowed and not (given == "int" and "float" in allowed and "int" not in allowed):
        raise ValueError(f"{name}.{field.name}: {value!r} is no {' or '.join(sorted(allowed))}")
    if given == "int" and value > MOST:
        raise ValueError(f"{name}.{field.name}: must be at most {MOST}, not {value}")


def parse_value(text: str) -> Any:
    """Read a parameter's value as a Python literal; what is none is a string."""
    if "#" in text:  # Python would take what follows for a comment
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def parse(text: str, settings: Iterable[str] = ()) -> dict[str, Entry | Any]:
    """Parse a pipeline text and settings.

    Args:
        text: ``PART(+PART)*`` with ``NAME[:ARG](@[ROLE.]FIELD=VALUE)*`` for a PART; a NAME is a method or a preset, ARG
            fills the method's shorthand field, and a FIELD without ROLE is one of this method.
        settings: ``role.field=value`` texts that change a field of the method in that role; they go last.

    Returns:
        Built methods by role.

    Raises:
        ValueError: A name, parameter or value is wrong, or two values fill one role.
    """
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    text, own = apart(text)
    for part in _expand(text):
        name, _, arg = part.partition(":")
        entry = lookup(name)
        if entry.role in chosen and chosen[entry.role][0] != name:
            raise ValueError(
                f"pipeline {text!r}: {chosen[entry.role][0]} and {name} both fill the role of {entry.role}; choose one"
            )
        if entry.role in chosen and arg and chosen[entry.role][1]:
            raise ValueError(f"pipeline {text!r}: {name} is given two values")
        values = chosen.get(entry.role, (name, {}))[1]
        chosen[entry.role] = (name, {**values, **_shorthand(entry, part, arg)})
    for setting in (*own, *settings):
        role, field, value = _setting(setting)
        if role not in chosen:
            raise ValueError(f"setting {setting!r}: the pipeline {text!r} names no {role}")
        chosen[role][1][field] = value
    return {role: build(name, **values) for role, (name, values) in chosen.items()}


def apart(text: str) -> tuple[str, list[str]]:
    """Take the settings out of a pipeline text.

    Returns:
        The text without them, and the settings as ``role.field=value``.

    Raises:
        ValueError: A setting without a role stands behind a preset or an unknown method.
    """
    parts, found = [], []
    for part in text.split("+"):
        part, *settings = part.split("@")
        parts.append(part)
        name = part.partition(":")[0].strip()
        for setting in settings:
            if not name or "." in setting.partition("=")[0]:
                found.append(setting)
            elif name in presets() and name not in entries():
                raise ValueError(f"setting {setting!r}: {name} is a preset of several methods; write role.field=value")
            else:
                found.append(f"{lookup(name).role}.{setting}")
    return "+".join(parts), found


def _expand(text: str) -> list[str]:
    """Split at + and replace presets by what they stand for; a preset takes no argument."""
    parts: list[str] = []
    for part in text.split("+"):
        name, colon, _ = part.strip().partition(":")
        if not name:
            raise ValueError(
                f"pipeline {text!r}: a name is missing; write for example dense, recent:4 or full+uniform:0.3"
            )
        if name in presets() and name not in entries():
            if colon:
                raise ValueError(f"pipeline {text!r}: the preset {name} takes no value; write {name}@role.field=value")
            parts.extend(presets()[name].split("+"))
        else:
            parts.append(part.strip())
    return parts


def _shorthand(entry: Entry, part: str, arg: str) -> dict[str, Any]:
    if ":" not in part:
        return {}
    if not entry.method.shorthand:
        raise ValueError(f"{entry.name} takes no value, but {part!r} gives one")
    if not arg:
        raise ValueError(f"{part!r}: the value after the colon is missing")
    return {entry.method.shorthand: parse_value(arg)}


def _setting(text: str) -> tuple[str, str, Any]:
    key, equals, value = text.partition("=")
    role, dot, field = key.strip().partition(".")
    if not (equals and dot and role and field):
        raise ValueError(f"setting {text!r}: write role.field=value, for example compressor.keep=60")
    if role not in ROLES.values():
        raise ValueError(f"setting {text!r}: {role!r} is no role; roles: {', '.join(ROLES.values())}")
    return role, field.strip(), parse_value(value.strip())


def name_of(method: Any) -> str:
    """The registry name of a built method."""
    return str(type(method).__module__.rsplit(".", 1)[-1])
