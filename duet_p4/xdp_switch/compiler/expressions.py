"""Expressions in C, with BMv2's semantics.

BMv2 computes with integers of unbounded size, and cuts off only where a value is stored or where p4c
put an explicit mask. C computes modulo 2^64 (or 2^128 where an operand is wider than 64 bits), which is
the same for as long as only the low bits matter. So every value carries the exact interval of what BMv2
would hold: a comparison, a right shift or a division, which look at all bits, is compiled only where that
interval fits the C type. p4c masks after every operation, so programs hardly ever meet this limit.

C of a type narrower than what is computed in always has BMv2's very value, which is not negative then
(`c.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, Layout, load_bits
from duet_p4.xdp_switch.dataplane import UnsupportedError

_COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
_LOGIC = {"and": c.every, "or": c.any_of}
_BOOLEAN_OPS = _COMPARISONS | {"and", "or", "not", "d2b", "valid", "valid_union"}
_HEADER_KINDS = {"header", "header_stack", "header_union", "header_union_stack"}
_NAMED = {"+", "-", "*", "&", "|", "^", "<<", ">>", "~"}
_MAX_SHIFT = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Value:
    """C code whose value is congruent to BMv2's, and the interval [low, high] of BMv2's value."""

    code: C
    low: int
    high: int


class Expressions:
    """Compiles expressions of one program; `parameters` are those of the action at hand."""

    def __init__(self, layout: Layout, source: ir.Source, parameters: tuple[Value, ...] = ()) -> None:
        self._layout = layout
        self._program = layout.program
        self.source = source
        self._parameters = parameters
        self._bits = 64
        self._named: dict[ir.Expr, Value] = {}

    def value(self, expr: ir.Expr, width: int = 64) -> Value:
        """Compile an arithmetic expression of which `width` bits matter.

        Raises UnsupportedError where it needs numbers wider than 128 bits.
        """
        return self._widening(max(width, self._width(expr)), lambda: self._value(expr))

    def assignable(self, expr: ir.Expr, width: int) -> C:
        """Compile and cut an expression to `width` bits, as a store into a field does; truths are 0 or 1."""
        if self.is_boolean(expr):
            return c.choice(self.condition(expr), c.number(1), c.number(0))
        return cut(self.value(expr, width), width)

    def name_repeated(self, expr: ir.Expr) -> list[str]:
        """Return C variables for what an expression has more than once, for what is compiled next.

        p4c puts one expression into another in place of a variable that is assigned once.
        """
        if self._width(expr) > 64:
            return []
        lines = []
        for part in _repeated(expr):
            try:
                value = self._value(part)
            except _TooWideError:
                continue
            name = f"x{len(self._named)}"
            lines.append(f"__u64 {name} = {value.code.text};")
            self._named[part] = Value(c.place(name, 64), value.low, value.high)
        return lines

    def condition(self, expr: ir.Expr) -> C:
        """Compile a boolean expression into a C condition."""
        return self._boolean(expr)

    def _widening(self, width: int, compiled: Callable[[], T]) -> T:
        """Compile with 64 bits where operands are no wider, and once more with 128 where that is too few."""
        before = self._bits
        try:
            for self._bits in (64, 128) if width <= 64 else (128,):
                try:
                    return compiled()
                except _TooWideError as error:
                    if self._bits == 128:
                        raise self._refusal(str(error)) from error
            raise AssertionError("128 bits were not tried")
        finally:
            self._bits = before

    def is_boolean(self, expr: ir.Expr) -> bool:
        """Tell a boolean expression from an arithmetic one."""
        if isinstance(expr, ir.Bool):
            return True
        if not isinstance(expr, ir.Op):
            return False
        return expr.op in _BOOLEAN_OPS or (expr.op == "?" and self.is_boolean(_present(expr.left)))

    def _width(self, expr: ir.Expr | None) -> int:
        """Return the width of the widest operand of an expression."""
        if isinstance(expr, ir.FieldRef):
            return self._program.field(expr).width
        if isinstance(expr, ir.ElementField):
            return self._program.field(self.fields_of(expr)[0]).width
        if isinstance(expr, ir.Const):
            return expr.value.bit_length()
        if isinstance(expr, ir.Param):
            return self._parameters[expr.index].high.bit_length()
        if isinstance(expr, ir.Op):
            sliced = self._slice(expr)
            if sliced is not None:
                return sliced[2]
            return max(self._width(expr.left), self._width(expr.right), self._width(expr.condition))
        return 0

    def _slice(self, expr: ir.Op) -> tuple[ir.FieldRef, int, int] | None:
        """Return (field, low bit, width) where a number is cut out of a field that is too wide for one."""
        field, mask = expr.left, expr.right
        low = 0
        if expr.op != "&" or not isinstance(mask, ir.Const):
            return None
        while isinstance(field, ir.Op) and isinstance(field.right, ir.Const) and field.right.value > 0:
            if field.op == ">>" and not low:
                low = field.right.value
            elif field.op != "&" or field.right.value & mask.value != mask.value or low:
                return None
            field = field.left
        width = mask.value.bit_length()
        if not isinstance(field, ir.FieldRef) or mask.value != (1 << width) - 1:
            return None
        if not 0 < width <= MAX_ARITHMETIC:
            return None
        member = self._program.field(field)
        return (field, low, width) if MAX_ARITHMETIC < member.width >= low + width else None

    def fields_of(self, expr: ir.ElementField) -> list[ir.FieldRef]:
        """Return the field of each element that a field of a stack's element may be."""
        fields = []
        for name in self._program.stacks[expr.element.stack].headers:
            field = expr.field
            if isinstance(field, int):
                field = list(self._program.headers[name].type.fields)[field]
            fields.append(ir.FieldRef(name, field))
        return fields

    def elements(self, expr: ir.Element) -> tuple[C, tuple[str, ...]]:
        """Return C for the index of a stack's element, and the headers it may be."""
        return cut(self.value(expr.index), 32), self._program.stacks[expr.stack].headers

    def _element_field(self, expr: ir.ElementField) -> Value:
        fields = self.fields_of(expr)
        index = cut(self._value(expr.element.index), 32)
        values = [self._field(field) for field in fields]
        code = c.number(0)
        for number, value in reversed(list(enumerate(values))):
            code = c.choice(c.compare("==", index, c.number(number)), value.code, code)
        return Value(code, min(0, *(v.low for v in values)), max(v.high for v in values))

    def _refusal(self, what: str) -> UnsupportedError:
        return ir.unsupported(what, self.source)

    def _value(self, expr: ir.Expr) -> Value:
        if isinstance(expr, ir.Const):
            return self._constant(expr.value)
        if isinstance(expr, ir.FieldRef):
            return self._field(expr)
        if isinstance(expr, ir.Param):
            return self._parameters[expr.index]
        if isinstance(expr, ir.ElementField):
            return self._element_field(expr)
        if isinstance(expr, ir.Op):
            known = self._named.get(expr) if self._bits == 64 else None
            return self._operation(expr) if known is None else known
        raise self._refusal(f"{type(expr).__name__} as a number")

    def _constant(self, value: int) -> Value:
        return Value(c.number(value & (1 << self._bits) - 1), value, value)

    def _field(self, reference: ir.FieldRef) -> Value:
        member = self._program.field(reference)
        code = self._layout.load(reference)
        if not member.signed:
            return Value(code, 0, (1 << member.width) - 1)
        half = 1 << member.width - 1
        return Value(self._sign_extend(code, member.width), -half, half - 1)

    def _sign_extend(self, code: C, width: int) -> C:
        shift = c.number(self._bits - width)
        raised = c.as_signed(c.binary("<<", c.cast(code, self._bits), shift), self._bits)
        return c.cast(c.binary(">>", raised, shift), self._bits)

    def _operation(self, expr: ir.Op) -> Value:
        op = expr.op
        if op == "b2d":
            return Value(c.choice(self._boolean(_present(expr.right)), c.number(1), c.number(0)), 0, 1)
        if op == "?":
            condition = self._boolean(_present(expr.condition))
            left, right = self._value(_present(expr.left)), self._value(_present(expr.right))
            return Value(
                c.choice(condition, left.code, right.code),
                min(left.low, right.low),
                max(left.high, right.high),
            )
        if op in ("last_stack_index", "size_stack"):
            return self._stack_count(expr)
        if op == "~":
            inner = self._value(_present(expr.right))
            return Value(c.complement(inner.code, self._bits), ~inner.high, ~inner.low)
        sliced = self._slice(expr)
        if sliced is not None:
            field, low, width = sliced
            code = self._layout.slice(field, low, min(width, 64))
            if width > 64:
                code = c.joined(self._layout.slice(field, low + 64, width - 64), code)
            return Value(code, 0, (1 << width) - 1)
        unary = op in ("+", "-") and expr.left is None
        left = self._value(ir.Const(0) if unary else _present(expr.left))
        right = self._value(_present(expr.right))
        if op in ("two_comp_mod", "sat_cast", "usat_cast"):
            return self._cast(op, left, right)
        if op in ("<<", ">>"):
            return self._shift(op, left, right)
        if op in ("/", "%"):
            return self._divide(op, left, right)
        if op == "&" and (kept := _unmasked(left, right) or _unmasked(right, left)) is not None:
            return kept
        if op in ("+", "-", "*", "&", "|", "^"):
            low, high = _interval(op, left, right)
            if op == "*" and self._bits == 128:
                if low < 0 or high >> 64:
                    raise self._refusal("* of numbers of more than 64 bits")
                return Value(c.binary(op, c.cast(left.code, 64), c.cast(right.code, 64), 64), low, high)
            bits = c.INT if op in ("&", "|", "^") else self._bits
            return Value(c.binary(op, left.code, right.code, bits), low, high)
        raise self._refusal(f"operator {op}")

    def _fits_unsigned(self, *values: Value) -> bool:
        return all(v.low >= 0 and v.high < 1 << self._bits for v in values)

    def _fits_signed(self, *values: Value) -> bool:
        half = 1 << self._bits - 1
        return all(-half <= v.low and v.high < half for v in values)

    def _operands(self, what: str, *values: Value) -> list[C]:
        """Return code that C compares as BMv2 does."""
        if self._fits_unsigned(*values):
            return [value.code for value in values]
        if self._fits_signed(*values):
            return [c.as_signed(value.code, self._bits) for value in values]
        raise _TooWideError(f"{what} of numbers that need more than {self._bits} bits")

    def _cast(self, op: str, left: Value, width: Value) -> Value:
        if width.low != width.high or not 0 < width.low <= self._bits:
            raise self._refusal(f"{op} to a width that is no constant up to {self._bits}")
        bits = width.low
        half = 1 << bits - 1
        if op == "two_comp_mod":
            return Value(self._sign_extend(left.code, bits), -half, half - 1)
        low, high = (0, (1 << bits) - 1) if op == "usat_cast" else (-half, half - 1)
        bounds = (self._constant(low), self._constant(high))
        code = left.code
        if left.high > high:
            value, above = self._operands(op, Value(left.code, max(left.low, low), left.high), bounds[1])
            code = c.choice(c.compare(">", value, above), bounds[1].code, code)
        if left.low < low:
            value, below = self._operands(op, left, bounds[0])
            code = c.choice(c.compare("<", value, below), bounds[0].code, code)
        return Value(code, max(low, min(left.low, high)), min(high, max(left.high, low)))

    def _shift(self, op: str, left: Value, right: Value) -> Value:
        if right.low < 0:
            raise self._refusal(f"{op} by a negative number")
        if self._bits == 128 and right.low != right.high:
            raise self._refusal(f"{op} of more than 64 bits by a variable amount")
        if op == ">>":
            if left.low < 0:
                return self._shift_signed(left, right)
            if not self._fits_unsigned(left):
                raise _TooWideError(f">> of a number that needs more than {self._bits} bits")
            low, high = left.low >> min(right.high, _MAX_SHIFT), left.high >> right.low
        else:
            if right.high > _MAX_SHIFT and left.high:
                raise ir.unsupported(f"<< by up to {right.high} bits", self.source)
            bounds = [
                left.low << right.low,
                left.low << right.high,
                left.high << right.low,
                left.high << right.high,
            ]
            low, high = min(bounds), max(bounds)
        if right.low == right.high:
            amount = right.low
            if amount >= self._bits:
                return Value(c.number(0), low, high)
            bits = c.INT if op == ">>" else self._bits
            return Value(c.binary(op, left.code, c.number(amount), bits), low, high)
        shifted = c.binary(op, c.cast(left.code, self._bits), right.code, self._bits)
        if right.high < self._bits:
            return Value(shifted, low, high)
        fits = c.compare("<", right.code, c.number(self._bits))
        return Value(c.choice(fits, shifted, c.number(0)), low, high)

    def _shift_signed(self, left: Value, right: Value) -> Value:
        """Return an arithmetic shift to the right of a number that may be negative."""
        if not self._fits_signed(left):
            raise _TooWideError(f">> of a number that needs more than {self._bits} bits")
        last = self._bits - 1
        if right.low == right.high:
            amount = c.number(min(right.low, last))
        elif right.high <= last:
            amount = right.code
        else:
            fits = c.compare("<", right.code, c.number(last))
            amount = c.choice(fits, right.code, c.number(last))
        number = c.as_signed(c.cast(left.code, self._bits), self._bits)
        code = c.cast(c.binary(">>", number, amount, self._bits), self._bits)
        shift = min(right.low, _MAX_SHIFT)
        return Value(code, left.low >> shift, max(left.high, 0) >> shift)

    def _divide(self, op: str, left: Value, right: Value) -> Value:
        if self._bits == 128:
            raise self._refusal(f"{op} of numbers of more than 64 bits")
        if left.low < 0 or right.low < 0:
            raise self._refusal(f"{op} of negative numbers")
        if not self._fits_unsigned(left, right):
            raise _TooWideError(f"{op} of numbers that need more than {self._bits} bits")
        bits = 32 if max(left.high, right.high) < 1 << 32 else 64
        code = c.binary(op, c.cast(left.code, bits), c.cast(right.code, bits))
        if right.low == 0:
            code = c.choice(right.code, code, c.number(0))
        high = left.high // max(right.low, 1) if op == "/" else max(right.high - 1, 0)
        return Value(code, 0, high)

    def _stack_count(self, expr: ir.Op) -> Value:
        stack = expr.left or expr.right
        if not isinstance(stack, ir.Named):
            raise self._refusal(f"{expr.op} of what is no header stack")
        count = c.place(self._layout.next(stack.name), 32)
        unions = self._program.union_stacks.get(stack.name)
        size = len(unions.unions if unions else self._program.stacks[stack.name].headers)
        if expr.op == "size_stack":
            return Value(count, 0, size)
        return Value(c.binary("-", count, c.number(1), 64), -1, size - 1)

    def _boolean(self, expr: ir.Expr) -> C:
        if isinstance(expr, ir.Bool):
            return c.number(int(expr.value))
        if not isinstance(expr, ir.Op) or not self.is_boolean(expr):
            return self._comparison(ir.Op("!=", expr, ir.Const(0), None))
        op = expr.op
        if op in _LOGIC:
            return _LOGIC[op](self._boolean(_present(expr.left)), self._boolean(_present(expr.right)))
        if op == "not":
            return c.negation(self._boolean(_present(expr.right)))
        if op == "valid":
            return self._layout.valid(ir.named(expr.right))
        if op == "valid_union":
            members = self._program.unions[ir.named(expr.right)].members.values()
            return c.any_of(*(self._layout.valid(name) for name in members))
        if op == "d2b":
            inner = expr.right
            if isinstance(inner, ir.FieldRef) and inner.field == ir.VALID:
                return self._layout.valid(inner.header)
            if inner is not None and self.is_boolean(inner):
                return self._boolean(inner)
            return self._comparison(ir.Op("!=", _present(inner), ir.Const(0), None))
        if op == "?":
            condition, left, right = (
                self._boolean(_present(e)) for e in (expr.condition, expr.left, expr.right)
            )
            return c.choice(condition, left, right)
        if op in _COMPARISONS:
            return self._comparison(expr)
        raise self._refusal(f"operator {op} as a condition")

    def _comparison(self, expr: ir.Op) -> C:
        left, right = _present(expr.left), _present(expr.right)
        if isinstance(left, ir.Named | ir.Element) or isinstance(right, ir.Named | ir.Element):
            return self._compare_headers(expr.op, left, right)
        if isinstance(left, ir.FieldRef) and isinstance(right, ir.FieldRef):
            member = self._program.field(left)
            if member.varbit or member.width > MAX_ARITHMETIC:
                equal = self._equal_bytes(left, right)
                return c.negation(equal) if expr.op == "!=" else equal
        if self.is_boolean(left):
            return c.compare(expr.op, c.negation(self._boolean(left)), c.negation(self._boolean(right)))

        def compare() -> C:
            a, b = self._operands(f"comparison {expr.op}", self._value(left), self._value(right))
            return c.compare(expr.op, a, b)

        return self._widening(max(self._width(left), self._width(right)), compare)

    def _compare_headers(self, op: str, left: ir.Expr, right: ir.Expr) -> C:
        if op not in ("==", "!="):
            raise self._refusal(f"comparison {op} of whole headers")
        equal = self._equal(left, right)
        return c.negation(equal) if op == "!=" else equal

    def _equal(self, left: ir.Expr, right: ir.Expr) -> C:
        """Return C that tells whether two headers, stacks or unions are equal."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, ir.Element):
                index, names = self.elements(one)
                cases = c.number(0)
                for number, name in reversed(list(enumerate(names))):
                    is_it = c.compare("==", index, c.number(number))
                    cases = c.choice(is_it, self._equal(ir.Named("header", name), other), cases)
                return cases
        if not (isinstance(left, ir.Named) and isinstance(right, ir.Named)) or left.kind not in _HEADER_KINDS:
            raise self._refusal("comparison of a whole header with what is none")
        pairs = list(zip(self._headers(left), self._headers(right), strict=True))
        if left.kind == "header":
            return self._equal_headers(*pairs[0])
        return c.every(*(self._equal_headers(a, b) for a, b in pairs))

    def _headers(self, named: ir.Named) -> list[str]:
        """Return the headers that a header, stack or union consists of."""
        program = self._program
        if named.kind == "header_stack":
            return list(program.stacks[named.name].headers)
        if named.kind == "header_union":
            return list(program.unions[named.name].members.values())
        if named.kind == "header_union_stack":
            unions = program.union_stacks[named.name].unions
            return [header for union in unions for header in program.unions[union].members.values()]
        return [named.name]

    def _equal_headers(self, left: str, right: str) -> C:
        """Return C that tells whether two headers are both invalid, or valid with equal fields."""
        a, b = self._layout.valid(left), self._layout.valid(right)
        kind = self._program.headers[left].type
        tests: list[C] = []
        first = 0
        for member in (*kind.fields.values(), None):
            end = kind.bits if member is None else member.offset
            if member is not None and not member.varbit:
                continue
            for at in range(first, end, 64):
                width = min(64, end - at)
                places = (self._layout.header(left), self._layout.header(right))
                tests.append(c.compare("==", *(load_bits(place, at, width) for place in places)))
            if member is not None:
                tests.append(
                    self._equal_bytes(ir.FieldRef(left, member.name), ir.FieldRef(right, member.name))
                )
                first = member.offset + member.width
        return c.choice(a, c.every(b, *tests), c.negation(b))

    def _equal_bytes(self, left: ir.FieldRef, right: ir.FieldRef) -> C:
        """Return C that tells whether two fields of whole bytes are equal."""
        a, b = self._layout.bytes_of(left), self._layout.bytes_of(right)
        if self._program.field(left).varbit:
            same = c.compare("==", c.place(a.length, 32), c.place(b.length, 32))
            room = min(a.room, b.room)
            return c.every(same, c.place(f"equal_bytes({a.place}, {b.place}, {a.length}, {room})", c.INT))
        return c.place(f"equal_bytes({a.place}, {b.place}, {a.room}, {a.room})", c.INT)


def _repeated(expr: ir.Expr) -> list[ir.Expr]:
    """Return the sums, shifts and the like that an expression has more than once, the innermost first."""
    counts: Counter[ir.Expr] = Counter()
    larger: dict[ir.Expr, set[ir.Expr]] = {}

    def walk(part: ir.Expr | None, around: ir.Expr | None) -> None:
        if not isinstance(part, ir.Op):
            return
        if part.op in _NAMED:
            counts[part] += 1
            if around is not None:
                larger.setdefault(part, set()).add(around)
            around = part
        for inner in (part.left, part.right, part.condition):
            walk(inner, around)

    walk(expr, None)
    twice = [
        part
        for part, count in counts.items()
        if count > 1 and all(counts[around] < count for around in larger.get(part, ()))
    ]
    return sorted(twice, key=lambda part: sum(1 for _ in ir.inside(part)))


class _TooWideError(Exception):
    """The C type at hand cannot hold the value exactly."""


def cut(value: Value, width: int) -> C:
    """Return C for the low `width` bits of a value."""
    if value.low >= 0 and value.high < 1 << width:
        return value.code
    if width in (64, 128):
        return c.cast(value.code, width)
    code = c.cast(value.code, 64) if value.code.bits > 64 >= width else value.code
    return c.masked(code, width)


def _unmasked(value: Value, mask: Value) -> Value | None:
    """Return a value that a mask leaves as it is, None where it may change it."""
    whole = mask.low == mask.high and mask.low & (mask.low + 1) == 0
    return value if whole and value.low >= 0 and value.high <= mask.low else None


def _interval(op: str, a: Value, b: Value) -> tuple[int, int]:
    if op == "+":
        return a.low + b.low, a.high + b.high
    if op == "-":
        return a.low - b.high, a.high - b.low
    if op == "*":
        bounds = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]
        return min(bounds), max(bounds)
    if op == "&":
        highs = [v.high for v in (a, b) if v.low >= 0]
        if highs:
            return 0, min(highs)
    bits = max(bound.bit_length() for bound in (a.low, a.high, b.low, b.high))
    low = 0 if min(a.low, b.low) >= 0 else -(1 << bits)
    return low, (1 << bits) - 1


def _present(expr: ir.Expr | None) -> ir.Expr:
    if expr is None:
        raise ValueError("the BMv2 JSON contradicts itself: an operator lacks an operand")
    return expr
