"""Strategies by name: whatever is registered under the entry points `duet.strategies`, ours and others'.

    [project.entry-points."duet.strategies"]
    cores-only = "my_package.strategies:CoresOnly"

An entry point names a dataclass that is a `Strategy`; its fields, but for `name`, are its options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from controller.engine.strategy import Strategy

GROUP = "duet.strategies"


def strategy_names() -> tuple[str, ...]:
    """Return the names of all strategies that are installed, in order."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def strategy_options(name: str) -> Mapping[str, Any]:
    """Return the options of a strategy with their defaults. Raises ValueError for an unknown name."""
    return {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(_strategy_type(name))
        if field.init and field.name != "name"
    }


def make_strategy(name: str, **options: Any) -> Strategy:
    """Return a strategy with options; those that are not given have its defaults.

    Raises ValueError naming a strategy or an option that there is not, or a value of another type.
    """
    known = strategy_options(name)
    for option, value in options.items():
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"strategy {name} has no option {option!r}; {has}")
        options[option] = _like(name, option, known[option], value)
    made: Strategy = _strategy_type(name)(**options)
    return made


def _like(name: str, option: str, default: Any, value: Any) -> Any:
    """Return an option's value as its default's type: an integer may stand for a float."""
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise ValueError(f"strategy {name}: option {option} is {value!r}, which is no {type(default).__name__}")


@cache
def _strategy_type(name: str) -> Any:
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        names = ", ".join(strategy_names()) or "none at all: is the package installed? (make setup)"
        raise ValueError(f"there is no strategy {name!r}; there are {names}")
    return found[0].load()


__all__ = ["GROUP", "make_strategy", "strategy_names", "strategy_options"]
