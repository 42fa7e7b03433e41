"""C that is printed with few casts and parentheses computes what was meant, and clang has no complaint."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from duet_p4.bpf.compile import compiler
from duet_p4.xdp_switch.compiler import c
from duet_p4.xdp_switch.compiler.c import C

WIDTHS = {"a": 8, "b": 16, "d": 32, "e": 64}
FULL = (1 << 64) - 1
Meaning = Callable[[dict[str, int]], int]
SIGN = {
    "==": int.__eq__,
    "!=": int.__ne__,
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
}


def grown(rng: random.Random, depth: int) -> tuple[C, Meaning]:
    """Return an expression, and what its value is, given the variables'."""
    kind = rng.choice(
        ["place", "number"] if depth == 0 else ["wide", "bits", "shift", "mask", "not", "choice", "truth"]
    )
    if kind == "place":
        name = rng.choice(list(WIDTHS))
        return c.place(name, WIDTHS[name]), lambda known: known[name]
    if kind == "number":
        value = rng.choice([0, 1, 7, 99, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, FULL])
        return c.number(value), lambda known: value
    left, low = grown(rng, depth - 1)
    right, high = grown(rng, depth - 1)
    if kind == "wide":
        operator = rng.choice("+-*")
        act = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator]
        return c.binary(operator, left, right, 64), lambda known: act(low(known), high(known)) & FULL
    if kind == "bits":
        operator = rng.choice("&|^")
        act = {"&": int.__and__, "|": int.__or__, "^": int.__xor__}[operator]
        return c.binary(operator, left, right), lambda known: act(low(known), high(known))
    if kind == "shift":
        by = rng.choice([0, 1, 8, 31, 32, 63])
        if rng.random() < 0.5:
            return c.binary("<<", left, c.number(by), 64), lambda known: low(known) << by & FULL
        return c.binary(">>", left, c.number(by)), lambda known: low(known) >> by
    if kind == "mask":
        width = rng.choice([1, 8, 16, 31, 32, 48, 64])
        return c.masked(left, width), lambda known: low(known) & (1 << width) - 1
    if kind == "not":
        return c.complement(left, 64), lambda known: ~low(known) & FULL
    test, holds = condition(rng, depth - 1)
    if kind == "truth":
        return c.choice(test, c.number(1), c.number(0)), lambda known: int(holds(known))
    return c.choice(test, left, right), lambda known: low(known) if holds(known) else high(known)


def condition(rng: random.Random, depth: int) -> tuple[C, Callable[[dict[str, int]], bool]]:
    """Return a condition, and whether it holds."""
    kind = rng.choice(["compare", "every", "any", "not"]) if depth > 0 else "compare"
    if kind == "compare":
        left, low = grown(rng, max(depth, 0))
        right, high = grown(rng, max(depth, 0))
        operator = rng.choice(list(SIGN))
        return c.compare(operator, left, right), lambda known: SIGN[operator](low(known), high(known))
    one, holds = condition(rng, depth - 1)
    if kind == "not":
        return c.negation(one), lambda known: not holds(known)
    other, too = condition(rng, depth - 1)
    if kind == "every":
        return c.every(one, other), lambda known: holds(known) and too(known)
    return c.any_of(one, other), lambda known: holds(known) or too(known)


def test_what_is_printed_computes_what_was_meant(tmp_path: Path) -> None:
    rng = random.Random(5)
    made = [grown(rng, rng.randrange(1, 5)) for _ in range(300)]
    variables = ", ".join(f"uint{bits}_t {name}" for name, bits in WIDTHS.items())
    lines = ["#include <stdint.h>", "typedef uint32_t __u32;", "typedef uint64_t __u64;"]
    lines += [f"uint64_t f{n}({variables}) {{ return {code.text}; }}" for n, (code, _) in enumerate(made)]
    source = tmp_path / "made.c"
    source.write_text("\n".join(lines) + "\n")
    ignored = ("tautological-compare", "constant-conversion", "parentheses-equality", "unused")
    subprocess.run(
        [
            *(compiler()[0], "-O1", "-shared", "-fPIC", "-Wall", "-Werror"),
            *(f"-Wno-{warning}" for warning in ignored),
            *("-o", str(tmp_path / "made.so"), str(source)),
        ],
        check=True,
    )
    library = ctypes.CDLL(str(tmp_path / "made.so"))
    for number, (code, meaning) in enumerate(made):
        function = library[f"f{number}"]
        function.restype = ctypes.c_uint64
        function.argtypes = [getattr(ctypes, f"c_uint{bits}") for bits in WIDTHS.values()]
        for _ in range(20):
            known = {name: rng.getrandbits(rng.choice([1, bits])) for name, bits in WIDTHS.items()}
            assert function(*known.values()) == meaning(known), (code.text, known)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (c.binary("+", c.place("a", 8), c.number(1), 64), "(__u64)a + 1"),
        (c.binary("+", c.place("e", 64), c.place("a", 8), 64), "e + a"),
        (c.masked(c.place("b", 16), 16), "b"),
        (c.masked(c.binary("+", c.place("b", 16), c.number(255), 64), 16), "((__u64)b + 0xff) & 0xffff"),
        (
            c.binary("|", c.binary("<<", c.place("a", 8), c.number(8), 64), c.place("b", 16)),
            "((__u64)a << 8) | b",
        ),
        (c.binary("&", c.binary(">>", c.place("a", 8), c.number(0)), c.number(15)), "a & 0xf"),
        (c.binary("*", c.number(6), c.number(7), 64), "42"),
        (c.negation(c.compare("==", c.place("a", 8), c.number(4))), "a != 4"),
        (
            c.negation(c.binary("&", c.place("s->valid", 64), c.place("VALID_ipv4", 64))),
            "!(s->valid & VALID_ipv4)",
        ),
        (c.joined(c.place("a", 8), c.place("e", 64)), "((__u128)a << 64) | e"),
    ],
)
def test_it_reads_as_one_would_write_it(code: C, text: str) -> None:
    assert code.text == text
