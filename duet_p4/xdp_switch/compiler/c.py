"""Expressions of C, printed with the casts and parentheses that they need, and hardly any more.

An expression knows what type it has in C: INT stands for an int, of which none is negative here, the others
are unsigned integers of so many bits. C widens all of them as it should, so one operand of the type to
compute in is enough, and no cast is needed where an operand has it already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

INT = 31
"""The bits of what C computes with as an int: loads of fewer than 32 bits, small constants, truth values."""

_LEVELS = {
    "?": 0,
    "||": 1,
    "&&": 2,
    "|": 3,
    "^": 4,
    "&": 5,
    "==": 6,
    "!=": 6,
    "<": 7,
    "<=": 7,
    ">": 7,
    ">=": 7,
    "<<": 8,
    ">>": 8,
    "+": 9,
    "-": 9,
    "*": 10,
    "/": 10,
    "%": 10,
    "unary": 11,
    "": 12,
}
"""How tightly operators bind; "" is for what has none: a name, a number, a call."""
_ARITHMETIC = {"+", "-", "*", "<<", ">>"}
_BITWISE = {"|", "^", "&", "<<", ">>"}
_CHAINS = {"||", "&&", "|", "^", "&"}
"""Operators of which a row needs no parentheses, wherever they stand."""
_OPPOSITES = {"==": "!=", "!=": "=="}
_LEAST_HEX = 100


@dataclass(frozen=True, slots=True)
class C:
    """An expression: its text, the bits of its type, its outermost operator, and its value where constant."""

    text: str
    bits: int
    operator: str = ""
    number: int | None = None
    signed: bool = False
    opposite: str = ""
    """The text of its negation, where that needs no `!`."""

    def __str__(self) -> str:
        """Return the text as an operand of whatever operator: in parentheses where it has one itself."""
        return self.text if _LEVELS[self.operator] >= _LEVELS["unary"] else f"({self.text})"

    @property
    def most(self) -> int:
        """A bound of the value, by its type."""
        return self.number if self.number is not None else (1 << self.bits) - 1


def place(text: str, bits: int) -> C:
    """Return what is loaded or called, as an unsigned integer of so many bits."""
    return C(text, bits)


def number(value: int) -> C:
    """Return a constant that is not negative."""
    if value >> 64:
        parts = number(value >> 64), number(value & (1 << 64) - 1)
        return C(f"(__u128){parts[0].text} << 64 | {parts[1].text}", 128, "|", value)
    bits = 64 if value >> 32 else 32 if value >> 31 else INT
    text = str(value) if value < _LEAST_HEX else hex(value)
    return C(text + "ull" * (bits == 64), bits, "", value)


def cast(value: C, bits: int) -> C:
    """Return a value as an unsigned integer of so many bits (32 to 128)."""
    if value.bits == bits and not value.signed:
        return value
    if value.number is not None and bits == 64 and value.bits < 64:
        return C(f"{value.text}ull", 64, "", value.number)
    return C(f"(__u{bits}){value}", bits, "unary")


def as_signed(value: C, bits: int) -> C:
    """Return a value of so many bits (64 or 128) as the signed integer that these bits are."""
    if value.number is not None and bits == 64:
        signed = value.number - (1 << 64 if value.number >> 63 else 0)
        return C(str(signed), INT, "unary" if signed < 0 else "", signed, signed=True)
    if value.bits < bits:
        return value if value.bits < 64 else C(f"(__s{bits}){value}", bits, "unary", signed=True)
    return C(f"(__s{bits}){value}", bits, "unary", signed=True)


def binary(operator: str, left: C, right: C, bits: int = INT) -> C:
    """Return what an operator makes of two values, computed with at least so many bits.

    Constants are folded, and what changes nothing is left out.
    """
    if (simple := _simplified(operator, left, right, bits)) is not None:
        return simple
    if operator in ("<<", ">>"):
        if left.bits < bits > INT:
            left = C(f"(__s{bits}){left}", bits, "unary", signed=True) if left.signed else cast(left, bits)
        return C(_joined(operator, left, right), max(left.bits, INT), operator, signed=left.signed)
    if operator in _CHAINS:
        left, right = _in_hex(left), _in_hex(right)
    if max(left.bits, right.bits) < bits > INT:
        if left.number is not None:
            right = cast(right, bits)
        else:
            left = cast(left, bits)
    widest = max(left.bits, right.bits)
    return C(_joined(operator, left, right), widest if operator in _BITWISE else max(widest, INT), operator)


def compare(operator: str, left: C, right: C) -> C:
    """Return a comparison."""
    other = _joined(_OPPOSITES[operator], left, right) if operator in _OPPOSITES else ""
    return C(_joined(operator, left, right), INT, operator, opposite=other)


def masked(value: C, width: int) -> C:
    """Return the lowest bits of a value."""
    mask = (1 << width) - 1
    if value.most <= mask and not value.signed:
        return value
    return binary("&", value, number(mask))


def complement(value: C, bits: int) -> C:
    """Return all bits of a value turned, as an integer of so many."""
    if value.number is not None:
        return number(~value.number & (1 << bits) - 1)
    return C(f"~{cast(value, bits)}", bits, "unary")


def negation(value: C) -> C:
    """Return whether something is not so."""
    if value.number is not None:
        return number(0 if value.number else 1)
    if value.opposite:
        return C(value.opposite, INT, _OPPOSITES[value.operator], opposite=value.text)
    return C(f"!{value}", INT, "unary")


def joined(high: C, low: C) -> C:
    """Return an integer of 128 bits, of which `low` are the lowest 64."""
    return binary("|", binary("<<", cast(high, 128), number(64), 128), low, 128)


def every(*values: C) -> C:
    """Return whether all are so."""
    return _row("&&", [v for v in values if v.number is None or not v.number], 1)


def any_of(*values: C) -> C:
    """Return whether one at least is so."""
    return _row("||", [v for v in values if v.number is None or v.number], 0)


def choice(condition: C, left: C, right: C) -> C:
    """Return one of two values, by a condition."""
    shown = [f"({v.text})" if v.operator == "?" else v.text for v in (condition, left)]
    return C(f"{shown[0]} ? {shown[1]} : {right.text}", max(left.bits, right.bits), "?")


def _row(operator: str, values: list[C], none: int) -> C:
    if not values:
        return number(none)
    found = values[0]
    for value in values[1:]:
        found = C(_joined(operator, found, value), INT, operator)
    return found


def _in_hex(value: C) -> C:
    """Return a constant as bits are read best."""
    if value.number is None or not 9 < value.number < _LEAST_HEX:
        return value
    return replace(value, text=hex(value.number) + "ull" * value.text.endswith("ull"))


def _simplified(operator: str, left: C, right: C, bits: int) -> C | None:
    a, b = left.number, right.number
    if a is not None and b is not None and not left.signed and not right.signed:
        full = (1 << max(bits, 64)) - 1
        results = {"+": a + b, "-": a - b, "*": a * b, "&": a & b, "|": a | b, "^": a ^ b}
        if operator in results:
            return number(results[operator] & full)
        if operator in ("<<", ">>") and b < max(bits, 64):
            return number((a << b if operator == "<<" else a >> b) & full)
    if a is not None and b is not None and operator == ">>" and left.signed:
        return number(a >> b & (1 << max(bits, 64)) - 1)
    if b is not None and operator == ">>" and b >= left.bits and not left.signed:
        return number(0)
    if b == 0 and operator in ("|", "^", "+", "-", "<<", ">>"):
        return left
    if a == 0 and operator in ("|", "^", "+"):
        return right
    return None


def _joined(operator: str, left: C, right: C) -> str:
    return f"{_operand(operator, left)} {operator} {_operand(operator, right, last=True)}"


def _operand(operator: str, value: C, *, last: bool = False) -> str:
    """Return an operand's text, in parentheses where C wants them, or a reader is glad of them."""
    inner = value.operator
    if _LEVELS[inner] >= _LEVELS["unary"]:
        return value.text
    if inner == operator and (operator in _CHAINS or (not last and operator in _ARITHMETIC)):
        return value.text
    binds = _LEVELS[inner] > _LEVELS[operator]
    mixed = operator in _BITWISE or inner in _BITWISE or (operator, inner) == ("||", "&&")
    return value.text if binds and not mixed else f"({value.text})"
