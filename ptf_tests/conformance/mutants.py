"""Mutants of a compiled program: BMv2 JSON with one small fault, as a slip in its P4 would make it.

| operator | fault |
| --- | --- |
| constant | a constant's lowest bit is another |
| operator | an operation is another: `==` `!=`, `<` `<=`, `+` `-`, `&` `|`, `<<` `>>`, `and` `or` |
| condition | an `if` goes the other way |
| statement | a statement of an action or of a parser state is missing |
| transition | a case of a select is missing, or ends the parser |
| next | what an action, a hit or a miss leads to is that of another |
| default | a table's default action is another, or does nothing |
| key | a table matches on another field of the same width |
| input | a hash or checksum leaves a field out |
| checksum | a checksum is not verified, or not updated |
| deparser | a header is not emitted, or before the one it follows |
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]
"""A program as p4c writes it."""
Path_ = tuple[str | int, ...]

_OTHER = {
    "==": "!=",
    "!=": "==",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "and": "or",
    "or": "and",
    "+": "-",
    "-": "+",
    "&": "|",
    "|": "&",
    "^": "|",
    "<<": ">>",
    ">>": "<<",
    "*": "+",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `name` is the same in every run, `what` says it to a reader, `config` has it."""

    name: str
    operator: str
    what: str
    path: Path_
    """Where in the JSON."""
    statement: int | None
    """Which statement of its action, None where it is none's."""
    config: Callable[[], Config]


def mutants(config: Config) -> Iterator[Mutant]:
    """Yield every mutant of a program, in a fixed order."""
    for operator, path, what, change in _faults(config):
        name = ".".join(str(step) for step in path) + f":{operator}:{what}"
        yield Mutant(
            name,
            operator,
            f"{_place(config, path)}: {what}",
            path,
            _statement(path, what),
            _maker(config, path, change),
        )


Change = Callable[[Any], None]
"""Changes in place what is at the path."""
_Fault = tuple[str, Path_, str, Change]


def _maker(config: Config, path: Path_, change: Change) -> Callable[[], Config]:
    def make() -> Config:
        made = copy.deepcopy(config)
        change(_at(made, path))
        return made

    return make


def _statement(path: Path_, what: str) -> int | None:
    """Return which statement of a list a fault is in; one that is missing ends with its number."""
    if len(path) > 3 and isinstance(path[3], int):
        return path[3]
    missing = re.search(r"\((\d+)\)$", what)
    return int(missing[1]) if missing else None


def _at(part: Any, path: Path_) -> Any:
    for step in path:
        part = part[step]
    return part


def _place(config: Config, path: Path_) -> str:
    """Return the source line, or else the name, of the innermost part on a path that has one."""
    found, part = "", config
    for step in path:
        part = part[step]
        if isinstance(part, dict):
            source = part.get("source_info")
            if source:
                found = f"{Path(source['filename']).name}:{source['line']}"
            elif part.get("name"):
                found = str(part["name"])
    return found


def _faults(config: Config) -> Iterator[_Fault]:
    for section in ("parsers", "actions", "pipelines", "checksums"):
        yield from _in_expressions(config[section], (section,))
    for number, action in enumerate(config["actions"]):
        yield from _missing(action["primitives"], ("actions", number, "primitives"))
    for number, parser in enumerate(config["parsers"]):
        for at, state in enumerate(parser["parse_states"]):
            path: Path_ = ("parsers", number, "parse_states", at)
            yield from _missing(state["parser_ops"], (*path, "parser_ops"))
            yield from _in_transitions(state["transitions"], (*path, "transitions"))
    for number, pipeline in enumerate(config["pipelines"]):
        for at, _ in enumerate(pipeline["conditionals"]):
            yield "condition", ("pipelines", number, "conditionals", at), "negated", _negate
        for at, table in enumerate(pipeline["tables"]):
            yield from _in_table(config, table, ("pipelines", number, "tables", at))
    for number, calculation in enumerate(config["calculations"]):
        inputs = calculation["input"]
        for at, field in enumerate(inputs if len(inputs) > 1 else ()):
            shown = field["value"]
            what = f"without {'.'.join(shown) if isinstance(shown, list) else shown} ({at})"
            yield "input", ("calculations", number, "input"), what, lambda part, at=at: part.pop(at)
    for number, checksum in enumerate(config["checksums"]):
        what = f"no checksum {'.'.join(checksum['target'])}"
        yield "checksum", ("checksums",), what, lambda part, number=number: part.pop(number)
    for number, deparser in enumerate(config["deparsers"]):
        yield from _in_deparser(deparser["order"], ("deparsers", number, "order"))


def _in_expressions(part: Any, path: Path_) -> Iterator[_Fault]:
    """Yield other constants and other operators wherever there are expressions."""
    if isinstance(part, dict):
        # A transition has no operators, and its value may be masked: see `_in_transitions`.
        if part.get("type") == "hexstr" and "next_state" not in part and isinstance(part.get("value"), str):
            value = int(part["value"], 16)
            yield "constant", path, f"{value:#x} is {value ^ 1:#x}", _set("value", hex(value ^ 1))
        operator = part.get("op")
        if operator in _OTHER and "left" in part:
            other = _OTHER[operator]
            yield "operator", path, f"{operator} is {other}", _set("op", other)
        for key, inner in part.items():
            yield from _in_expressions(inner, (*path, key))
    elif isinstance(part, list):
        for at, inner in enumerate(part):
            yield from _in_expressions(inner, (*path, at))


def _set(key: str, value: Any) -> Change:
    return lambda part: part.__setitem__(key, value)


def _missing(statements: list[Any], path: Path_) -> Iterator[_Fault]:
    for at, statement in enumerate(statements):
        source = statement.get("source_info", {}).get("source_fragment") or _shown(statement["parameters"])
        yield "statement", path, f"without {source} ({at})", lambda part, at=at: part.pop(at)


def _shown(parameters: list[Any]) -> str:
    """Return a statement's target, where p4c recorded no source."""
    value = parameters[0].get("value") if parameters else ""
    return ".".join(value) if isinstance(value, list) else str(value) if isinstance(value, str) else "check"


def _in_transitions(transitions: list[Any], path: Path_) -> Iterator[_Fault]:
    for at, transition in enumerate(transitions):
        shown = transition["value"] or transition["type"]
        if transition["next_state"] is not None:
            yield "transition", (*path, at), f"{shown} ends the parser", _set("next_state", None)
        if transition["type"] != "hexstr":
            continue
        yield "transition", path, f"without {shown} ({at})", lambda part, at=at: part.pop(at)
        digits = len(transition["value"]) - 2
        low = int(transition["mask"], 16) & -int(transition["mask"], 16) if transition["mask"] else 1
        other = f"0x{int(transition['value'], 16) ^ low:0{digits}x}"
        yield "transition", (*path, at), f"{shown} is {other}", _set("value", other)


def _negate(conditional: Any) -> None:
    conditional["true_next"], conditional["false_next"] = conditional["false_next"], conditional["true_next"]


def _in_table(config: Config, table: Config, path: Path_) -> Iterator[_Fault]:
    following = table["next_tables"]
    every = list(dict.fromkeys(following.values()))
    for name, node in following.items():
        others = [other for other in every if other != node]
        if others:
            what = f"after {name} comes {others[0]}"
            yield "next", (*path, "next_tables"), what, _set(name, others[0])
    default = table.get("default_entry")
    if default is not None and table["key"]:
        nothing = next((a["id"] for a in config["actions"] if not a["primitives"]), None)
        choices = [n for n in table["action_ids"] if not config["actions"][n]["runtime_data"]]
        for action in dict.fromkeys([*choices, *([] if nothing is None else [nothing])]):
            if action in table["action_ids"] and action != default["action_id"]:
                what = f"its default is {config['actions'][action]['name']}"
                yield "default", (*path, "default_entry"), what, _set("action_id", action)
    for at, key in enumerate(table["key"]):
        for other in _like(config, key["target"]):
            yield "key", (*path, "key", at), f"matches on {'.'.join(other)}", _set("target", other)


def _like(config: Config, target: list[str]) -> list[list[str]]:
    """Return another field of the same header and width, where there is one."""
    kinds = {kind["name"]: kind["fields"] for kind in config["header_types"]}
    kind = next((header["header_type"] for header in config["headers"] if header["name"] == target[0]), None)
    fields = kinds.get(kind, []) if kind is not None else []
    width = next((field[1] for field in fields if field[0] == target[1]), None)
    alike = [field[0] for field in fields if field[1] == width and field[0] != target[1]]
    return [[target[0], alike[0]]] if alike else []


def _in_deparser(order: list[str], path: Path_) -> Iterator[_Fault]:
    for at, header in enumerate(order):
        yield "deparser", path, f"without {header}", lambda part, at=at: part.pop(at)
        if at:
            what = f"{header} before {order[at - 1]}"
            yield "deparser", path, what, lambda part, at=at: part.insert(at - 1, part.pop(at))
