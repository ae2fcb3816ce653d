"""Configurations as TOML: `to_toml` writes what `from_toml` reads back. A frozen dataclass is the one source of the keys and their types.

TOML has no null: an unset option is written as "none". Nested dataclasses are tables.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from regkit.errors import UsageError

C = TypeVar("C")


def to_toml(config: Any) -> str:
    """A (possibly nested) dataclass of numbers, strings, flags, None and sequences of them as TOML text."""
    return "\n".join(_table(config, "")) + "\n"


def read_toml(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file.

    Raises UsageError when the file cannot be read or is no TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}; give a TOML file as --print-config writes it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}") from None


def override(config: C, values: dict[str, Any], source: str = "configuration", prefix: str = "") -> C:
    """A copy of `config` with the fields named in `values` replaced.

    source: what an error names first; may be empty.

    Raises UsageError, one line, for an unknown key (names the nearest known one) and for a value of the wrong type.
    """
    hints = get_type_hints(type(config))
    lead = f"{source}: " if source else ""
    known = [field.name for field in fields(config) if field.init]
    changes = {}
    for key, value in values.items():
        if key not in known:
            near = _nearest(key, known) or _nearest(key, _nested(config))
            hint = f"did you mean {prefix}{near}?" if near else "known keys: " + ", ".join(prefix + name for name in known)
            raise UsageError(f"{lead}unknown key {prefix}{key}; {hint}")
        current = getattr(config, key)
        if isinstance(value, dict) and is_dataclass(current):
            changes[key] = override(current, value, source, f"{prefix}{key}.")
        else:
            changes[key] = _convert(value, hints[key], f"{lead}{prefix}{key}")
    try:
        return replace(config, **changes)
    except (ValueError, TypeError, UsageError) as error:  # raised by the dataclass's own checks
        raise UsageError(f"{lead}{error}") from None


def override_by(config: C, tables: Iterable[str], file: str | Path | None) -> C:
    """`config` with what pieces of TOML say (those of --set among them), one after the other, and last a configuration file's.

    Raises UsageError as `override` and `read_toml` do, and for a piece that is no TOML.
    """
    for table in tables:
        try:
            config = override(config, tomllib.loads(table), "")
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"--set {table}: {error}") from None
    return config if file is None else override(config, read_toml(file), str(file))


def _nearest(key: str, names: list[str]) -> str | None:
    """The dotted name whose last part is most like `key`, if any is."""
    lasts = {name.rpartition(".")[2]: name for name in reversed(names)}
    near = get_close_matches(key, lasts, n=1, cutoff=0.6)
    return lasts[near[0]] if near else None


def _nested(config: Any) -> list[str]:
    """The dotted names of all keys in the tables of a configuration."""
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            names += [f"{field.name}.{inner}" for inner in ([inner.name for inner in fields(value)] + _nested(value))]
    return names


def _table(config: Any, name: str) -> list[str]:
    lines, tables = [], []
    for field in fields(config):
        if not field.init:
            continue
        value = getattr(config, field.name)
        if is_dataclass(value):
            path = f"{name}.{field.name}" if name else field.name
            tables += ["", f"[{path}]", *_table(value, path)]
        else:
            lines.append(f"{field.name} = {_value(value)}")
    return lines + tables


def _value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML too
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in a configuration")


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        choices = [choice for choice in arguments if choice is not NoneType]
        if NoneType in arguments and value == "none":
            return None
        for choice in choices[:-1]:
            try:
                return _convert(value, choice, where)
            except UsageError:
                continue
        return _convert(value, choices[-1], where)
    if origin is Literal:
        if value in arguments:
            return value
        raise UsageError(f"{where} is {value!r}; it must be one of " + ", ".join(map(repr, arguments)))
    if origin in (tuple, list) and isinstance(value, list):
        if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
            if len(arguments) != len(value):
                raise UsageError(f"{where} has {len(value)} values; it needs {len(arguments)}")
            return tuple(_convert(item, inner, where) for item, inner in zip(value, arguments))
        return origin(_convert(item, arguments[0], where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(hint, type) and origin is None and type(value) is hint):
        return value
    name = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise UsageError(f"{where} is {value!r}; it must be {_article(name)}")


def _article(name: str) -> str:
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string in quotes"}
    return names.get(name, f"of type {name}")
