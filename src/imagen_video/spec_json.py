"""Specs as JSON, read back with every field checked."""

import json
import types
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Spec = TypeVar("Spec")


def to_json(spec: Any) -> str:
    """Any spec as indented JSON; `from_json` gives it back equal."""
    return json.dumps(asdict(spec), indent=2) + "\n"


def from_json(kind: type[Spec], text: str) -> Spec:
    """A spec from its JSON. Raises ValueError for unknown or missing fields and wrong values."""
    try:
        return _build(kind, json.loads(text), kind.__name__)
    except json.JSONDecodeError as error:
        raise ValueError(f"{kind.__name__}: not JSON ({error})") from None


def _build(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        return None if value is None else _build(options[0], value, where)
    if get_origin(kind) is tuple:
        return _build_tuple(get_args(kind), value, where)
    if get_origin(kind) is dict:
        return _build_dict(get_args(kind)[1], value, where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where}: {value!r} is none of {', '.join(get_args(kind))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _build_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    inner = [items[0]] * len(value) if items[-1] is Ellipsis else items
    return tuple(_build(k, v, where) for k, v in zip(inner, value, strict=True))


def _build_dict(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r}")
    return {name: _build(kind, v, f"{where}.{name}") for name, v in value.items()}


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r}")
    hints = get_type_hints(kind)
    unknown = set(value) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; known: {sorted(hints)}")
    built = {name: _build(hints[name], v, f"{where}.{name}") for name, v in value.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
