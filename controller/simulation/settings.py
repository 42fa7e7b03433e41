"""Changing one setting of a set-up by its dotted path: what sweeps and the table of assumptions do."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from controller.simulation.scale import Scale

Setting = tuple[str, str]
"""A dotted path below `Scale`, such as `profile.largest_share`, and a value as text."""


def with_settings(scale: Scale, settings: tuple[Setting, ...]) -> Scale:
    """Return the set-up with these settings; ValueError names the path or the value that is wrong."""
    for path, text in settings:
        scale = _changed(scale, path.split("."), path, text)
    return scale


def _changed(value: Any, names: list[str], path: str, text: str) -> Any:
    name, *rest = names
    known = [field.name for field in fields(value)]
    if name not in known:
        raise ValueError(f"there is no setting {path!r}: {name!r} is none of {', '.join(known)}")
    current = getattr(value, name)
    if rest:
        if not is_dataclass(current):
            raise ValueError(f"there is no setting {path!r}: {name!r} has no parts")
        return replace(value, **{name: _changed(current, rest, path, text)})
    return replace(value, **{name: _parsed(current, path, text)})


def _parsed(current: Any, path: str, text: str) -> Any:
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, int):
            return int(text)
        if isinstance(current, float):
            return float(text)
        if isinstance(current, tuple) and all(isinstance(one, int | float) for one in current):
            kind = type(current[0]) if current else float
            return tuple(kind(part) for part in text.split(":"))
    except (ValueError, KeyError):
        raise ValueError(f"{path}: {text!r} is no {_kind(current)}") from None
    raise ValueError(f"{path} cannot be set by text; it is {_kind(current)}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "whole number"
    if isinstance(value, float):
        return "number"
    if isinstance(value, tuple):
        return "list of numbers, as in 1:2"
    return type(value).__name__


__all__ = ["Setting", "with_settings"]
