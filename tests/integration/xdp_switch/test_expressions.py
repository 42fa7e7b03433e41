"""Expressions compute what BMv2 computes: integers of any size, cut off where they are stored."""

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from duet_p4.xdp_switch.compiler import compile_program
from duet_p4.xdp_switch.dataplane import UnsupportedError
from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.programs import Json

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

INPUTS = [
    ("one", 1),
    ("three", 3),
    ("twelve", 12),
    ("byte", 8),
    ("odd", 37),
    ("three_bytes", 24),
    ("half", 16),
    ("crossing", 27),
    ("word", 32),
    ("mac", 48),
    ("long", 64),
    ("huge", 128),
]
OUTPUT_WIDTHS = [1, 7, 8, 9, 15, 16, 24, 32, 33, 48, 63, 64, 96, 128, 24]
OUTPUTS = [(f"out{n}", width) for n, width in enumerate(OUTPUT_WIDTHS)]
assert sum(w for _, w in INPUTS) % 8 == 0
assert sum(w for _, w in OUTPUTS) % 8 == 0


def op(name: str, left: Json | None, right: Json | None, cond: Json | None = None) -> Json:
    value: Json = {"op": name, "left": left, "right": right}
    if cond is not None:
        value["cond"] = cond
    return {"type": "expression", "value": value}


def evaluate(expr: Json, values: dict[str, int]) -> Any:
    """BMv2's arithmetic, in Python."""
    kind, value = expr["type"], expr["value"]
    if kind == "hexstr":
        return int(value, 16)
    if kind == "bool":
        return value
    if kind == "field":
        return values[value[1]]
    left = evaluate(value["left"], values) if value["left"] else None
    right = evaluate(value["right"], values) if value["right"] else None
    name = value["op"]
    if name == "?":
        return left if evaluate(value["cond"], values) else right
    if name == "two_comp_mod":
        low = left & (1 << right) - 1
        return low - (1 << right) if low >> right - 1 else low
    if name == "usat_cast":
        return min(max(left, 0), (1 << right) - 1)
    if name == "sat_cast":
        return min(max(left, -(1 << right - 1)), (1 << right - 1) - 1)
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "&": lambda: left & right,
        "|": lambda: left | right,
        "^": lambda: left ^ right,
        "~": lambda: ~right,
        "<<": lambda: left << right,
        ">>": lambda: left >> right,
        "==": lambda: left == right,
        "!=": lambda: left != right,
        "<": lambda: left < right,
        "<=": lambda: left <= right,
        ">": lambda: left > right,
        ">=": lambda: left >= right,
        "and": lambda: left and right,
        "or": lambda: left or right,
        "not": lambda: not right,
        "d2b": lambda: right != 0,
        "b2d": lambda: int(right),
    }[name]()


FIELDS = st.sampled_from([programs.field("input", name) for name, _ in INPUTS])
CONSTANTS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)).map(programs.number)
LEAVES = st.one_of(FIELDS, FIELDS, CONSTANTS)
WIDTHS = st.sampled_from([1, 8, 9, 16, 31, 32, 48, 64])


def masked(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.builds(lambda e, w: op("&", e, programs.number((1 << w) - 1)), inner, WIDTHS)


def extend(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    binary = st.builds(op, st.sampled_from(["+", "-", "*", "&", "|", "^"]), inner, inner)
    shifts = st.builds(op, st.sampled_from(["<<", ">>"]), inner, st.integers(0, 70).map(programs.number))
    by_field = st.builds(op, st.sampled_from(["<<", ">>"]), inner, st.just(programs.field("input", "three")))
    negated = st.builds(lambda e: op("~", None, e), inner)
    casts = st.builds(
        lambda name, e, w: op(name, e, programs.number(w)),
        st.sampled_from(["two_comp_mod", "usat_cast", "sat_cast"]),
        inner,
        WIDTHS,
    )
    compared = st.builds(op, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner)
    truth = st.one_of(
        compared,
        st.builds(lambda e: op("d2b", None, e), inner),
        st.builds(lambda e: op("not", None, e), compared),
        st.builds(op, st.sampled_from(["and", "or", "==", "!="]), compared, compared),
    )
    chosen = st.builds(lambda c, a, b: op("?", a, b, c), truth, inner, inner)
    counted = st.builds(lambda c: op("b2d", None, c), truth)
    return st.one_of(
        masked(st.one_of(binary, shifts, negated)), binary, shifts, by_field, casts, chosen, counted
    )


MULTIPLIER = 0x9E3779B97F4A7C15F39CC0605CEDC835
EXPRESSIONS = st.recursive(LEAVES, extend, max_leaves=6)


def values_of(seed: int, extreme: int) -> dict[str, int]:
    values = {}
    for position, (name, width) in enumerate(INPUTS):
        top = (1 << width) - 1
        chosen = {0: 0, 1: top, 2: top >> 1, 3: 1 << width - 1}.get(extreme + position * (extreme > 3))
        values[name] = (
            (seed >> position) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & top if chosen is None else chosen
        )
    return values


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],  # Each try takes a compiler run: shrinking would take minutes.
)
@given(
    expressions=st.lists(EXPRESSIONS, min_size=len(OUTPUTS), max_size=len(OUTPUTS)),
    seeds=st.lists(st.integers(1, 1 << 128), min_size=12, max_size=12),
)
def test_expressions_equal_bmv2s_arithmetic(expressions: list[Json], seeds: list[int]) -> None:
    steps = []
    for (name, _), expression in zip(OUTPUTS, expressions, strict=True):
        step = programs.assign(programs.field("output", name), expression)
        if compiles(step):
            steps.append((name, expression, step))
    assert steps, "every expression was refused"
    with programs.running(document([step for _, _, step in steps])) as pipeline:
        for number, seed in enumerate(seeds):
            values = values_of(seed, number)
            (sent,) = pipeline.replay(programs.pack(INPUTS, values) + bytes(20), 3)
            got = programs.unpack(OUTPUTS, sent[1])
            for name, expression, _ in steps:
                wanted = evaluate(expression, values) & (1 << dict(OUTPUTS)[name]) - 1
                assert got[name] == wanted, f"{expression} of {values}: {got[name]}, not {wanted}"


def document(steps: list[Json]) -> Json:
    compute = programs.action(1, "compute", steps)
    return programs.program(INPUTS, OUTPUTS, [compute], [programs.call("compute", 1, None)])


def compiles(step: Json) -> bool:
    """Tell whether an expression is within what the compiler takes: up to 128 bits where all bits matter."""
    try:
        compile_program(json.dumps(document([step])).encode(), 1)
    except UnsupportedError:
        return False
    return True


def test_a_negative_number_fills_a_field_wider_than_64_bits() -> None:
    less = op("-", programs.field("input", "one"), programs.field("input", "word"))
    with programs.running(document([programs.assign(programs.field("output", "out13"), less)])) as pipeline:
        sent = pipeline.replay(programs.pack(INPUTS, {"word": 5}) + bytes(20), 3)[0][1]
    assert programs.unpack(OUTPUTS, sent)["out13"] == (1 << 128) - 5


@pytest.mark.parametrize(
    ("inner", "expected"),
    [("<<", ">> of a number that needs more than 128 bits"), ("*", r"\* of numbers of more than 64 bits")],
)
def test_what_needs_too_many_bits_is_refused(inner: str, expected: str) -> None:
    wide = op(inner, programs.field("input", "huge"), programs.number(3))
    step = programs.assign(programs.field("output", "out0"), op(">>", wide, programs.number(3)))
    with (
        pytest.raises(UnsupportedError, match=rf"{expected} is not supported, at test\.p4:7"),
        programs.running(document([step])),
    ):
        pass
