"""Mutants that no packet can tell from the program: nobody can kill them, so they count for nothing.

Ways to know, the cheapest first. A mutated expression may have one value whatever its fields are, as where a
shift brings zeros to where a mask differs: both are computed for many random values. p4c leaves statements
whose result the next one overwrites. A mutant whose fault is in code that decides nothing compiles to the
same C. And what the program's own rules make equal is said by hand, with its reason.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from duet_p4.xdp_switch.compiler import compile_program
from ptf_tests.conformance.mutants import Config, Mutant

TRIALS = 4000
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": lambda a, b: a << min(b, 256),
    ">>": lambda a, b: a >> min(b, 4096),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
    "not": lambda _, b: int(not b),
    "d2b": lambda _, b: int(bool(b)),
    "b2d": lambda _, b: int(bool(b)),
}


class _UnknownError(Exception):
    """An expression that this does not compute."""


class Equivalence:
    """Tells which mutants of a program are the program."""

    def __init__(self, config: Config, known: dict[str, str]) -> None:
        """`known` has a reason for each mutant that the rules make equal, by a pattern of what it is."""
        self._config = config
        self._known = known
        self._source: str | None = None
        kinds = {kind["name"]: kind["fields"] for kind in config["header_types"]}
        self._widths = {
            (header["name"], field[0]): field[1]
            for header in config["headers"]
            for field in kinds[header["header_type"]]
        }

    def reason(self, mutant: Mutant) -> str:
        """Return why a mutant is the program, empty where it is not, or nobody knows."""
        mutated = mutant.config()
        if self._same_value(mutant, mutated):
            return "the expression has the same value"
        if self._overwritten(mutant):
            return "what it changes is overwritten before anybody reads it"
        if self._source is None:
            self._source = _compiled(self._config)
        if _compiled(mutated) == self._source:
            return "what it changes decides nothing"
        return next((why for known, why in self._known.items() if re.search(known, mutant.what)), "")

    def _overwritten(self, mutant: Mutant) -> bool:
        """Tell whether the fault is in a statement whose result a later one of its action replaces."""
        if mutant.path[0] != "actions" or mutant.path[2] != "primitives":
            return False
        statements = self._config["actions"][mutant.path[1]]["primitives"]
        at = mutant.statement
        if (
            at is None
            or statements[at]["op"] != "assign"
            or statements[at]["parameters"][0]["type"] != "field"
        ):
            return False
        target = statements[at]["parameters"][0]
        for later in statements[at + 1 :]:
            assigns = later["op"] == "assign" and later["parameters"][0] == target
            if _mentions(later["parameters"][1 if assigns else 0 :], target):
                return False
            if assigns:
                return True
        return False

    def _same_value(self, mutant: Mutant, mutated: Config) -> bool:
        """Tell whether the expression that holds the fault always has its value, as far as trials show."""
        before, after = self._config, mutated
        for step in mutant.path:
            if isinstance(before, dict) and before.get("type") == "expression":
                break
            before, after = before[step], after[step]
        else:
            return False
        if not (isinstance(before, dict) and before.get("type") == "expression"):
            return False
        chance = random.Random(mutant.name)
        try:
            return all(self._agree(before, after, chance) for _ in range(TRIALS))
        except _UnknownError:
            return False

    def _agree(self, before: Config, after: Config, chance: random.Random) -> bool:
        fields: dict[tuple[str, str], int] = {}
        return self._value(before, fields, chance) == self._value(after, fields, chance)

    def _value(self, part: Any, fields: dict[tuple[str, str], int], chance: random.Random) -> int:
        if part is None:
            return 0
        if "op" in part:
            if part["op"] not in _OPERATORS:
                raise _UnknownError(part["op"])
            left = self._value(part["left"], fields, chance)
            return _OPERATORS[part["op"]](left, self._value(part["right"], fields, chance))
        value = part["value"]
        if part["type"] == "expression":
            return self._value(value, fields, chance)
        if part["type"] == "hexstr":
            return int(value, 16)
        if part["type"] == "bool":
            return int(value)
        if part["type"] != "field":
            raise _UnknownError(part["type"])
        name = (value[0], value[1])
        if name not in fields:
            width = 1 if value[1] == "$valid$" else self._widths.get(name, 0)
            if not width:
                raise _UnknownError(value)
            fields[name] = _any_value(width, chance)
        return fields[name]


def _mentions(part: Any, field: Config) -> bool:
    """Tell whether a field stands anywhere in a part of the JSON."""
    if part == field:
        return True
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return any(_mentions(one, field) for one in inner)


def _any_value(width: int, chance: random.Random) -> int:
    """Return a value of so many bits, edges more often than chance has them."""
    drawn = chance.random()
    if drawn < 0.2:
        return chance.choice((0, 1, 2, (1 << width) - 1, 1 << width - 1)) & (1 << width) - 1
    if drawn < 0.4:
        return chance.randrange(min(1 << width, 32))
    return chance.getrandbits(width)


def _compiled(config: Config) -> str:
    """Return the C of a program without its comments; its message where it does not compile."""
    try:
        source = compile_program(json.dumps(config).encode(), 1).source
    except Exception as error:  # a mutant may be no program at all
        return repr(error)
    return re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
