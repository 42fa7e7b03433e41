"""Read an STF file into commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r'(?:"[^"]+"|[\w.$\[\]]+)'
_CALL = re.compile(rf"({_NAME})\s*\(([^)]*)\)\s*(?:=\s*(\S+))?\s*$")
_PAIR = re.compile(rf"({_NAME})\s*:\s*([\w*]+(?:\s*/\s*\w+)?)")


class ScriptError(ValueError):
    """A line is no STF; the message quotes it."""


@dataclass(frozen=True, slots=True)
class Call:
    """An action and its arguments by name."""

    action: str
    arguments: dict[str, str]


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, and for table commands the matches and the action."""

    name: str
    words: tuple[str, ...]
    line: int
    matches: tuple[tuple[str, str], ...] = ()
    call: Call | None = None
    label: str = ""
    """What the entry is called, `add ... = LABEL`, to ask for its counter as `$LABEL`."""


def read(text: str) -> Iterator[Command]:
    """Yield the commands of a script. Raises ScriptError."""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.split("#", 1)[0].strip()
        if stripped:
            yield _command(stripped, number)


def _command(text: str, line: int) -> Command:
    name, *words = text.split()
    name = name.lower()
    if name in ("packet", "expect"):
        if not words:
            raise ScriptError(f"line {line}: {name} names no port: {text!r}")
        return Command(name, (words[0], "".join(words[1:]).upper()), line)
    if name not in ("add", "setdefault"):
        return Command(name, tuple(words), line)
    rest = text.split(None, 1)[1] if words else ""
    found = _CALL.search(rest)
    head = re.match(rf"({_NAME})\s*(\d+(?=\s|$))?", rest)
    if found is None or head is None:
        raise ScriptError(f"line {line}: {name} names no table or no action: {text!r}")
    arguments = {_plain(n): v for n, v in _PAIR.findall(found[2])}
    matches = tuple(
        (_plain(n), v.replace(" ", "")) for n, v in _PAIR.findall(rest[head.end() : found.start()])
    )
    target = (_plain(head[1]), head[2] or "")
    return Command(name, target, line, matches, Call(_plain(found[1]), arguments), found[3] or "")


def _plain(name: str) -> str:
    return name.strip('"')


def number(text: str) -> int:
    """Return a number as STF writes it: decimal, or with 0x, 0b or 0o."""
    return int(text, 0) if not text.isdigit() else int(text)


def masked(text: str) -> tuple[int, int]:
    """Return (value, mask) of a number whose digits may be `*`, which match everything."""
    bits = {"0x": 4, "0b": 1, "0o": 3}.get(text[:2].lower())
    if bits is None:
        raise ScriptError(f"a ternary value has a prefix such as 0x, not {text}")
    value = mask = 0
    for digit in text[2:]:
        value <<= bits
        mask <<= bits
        if digit != "*":
            value |= int(digit, 16)
            mask |= (1 << bits) - 1
    return value, mask


def prefix(text: str, width: int) -> tuple[int, int]:
    """Return (value, length) of an LPM key: `value/length`, or digits of which `*` end the prefix."""
    if "/" in text:
        value, length = text.split("/")
        return number(value), number(length)
    bits = {"0x": 4, "0b": 1, "0o": 3}.get(text[:2].lower())
    if bits is None:
        return number(text), width
    digits = text[2:]
    return number(text.replace("*", "0")), bits * (len(digits) - digits.count("*"))


def agrees(expected: str, packet: bytes) -> bool:
    """Tell whether a packet is as expected: `*` is any digit, and more may follow unless `$` ends it."""
    got = packet.hex().upper()
    exact = expected.endswith("$")
    wanted = expected.removesuffix("$")
    if len(got) < len(wanted) or (exact and len(got) != len(wanted)):
        return False
    return all(w in ("*", g) for w, g in zip(wanted, got, strict=False))
