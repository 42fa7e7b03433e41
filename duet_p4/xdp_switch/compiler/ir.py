"""A P4 program as the compiler sees it: p4c's BMv2 JSON, typed.

The JSON's format is documented in behavioral-model, docs/JSON_format.md. What this switch cannot do is
refused here or where code for it would be made, always by `unsupported`, with the P4 source line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from duet_p4.xdp_switch.dataplane import UnsupportedError

STANDARD_METADATA = "standard_metadata"
VALID = "$valid$"


@dataclass(frozen=True, slots=True)
class Source:
    """Where in the P4 source something stands; `line` is 0 where p4c did not say."""

    file: str = ""
    line: int = 0
    fragment: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else "a place p4c did not record"


def unsupported(what: str, source: Source) -> UnsupportedError:
    """Return the error for a construct this switch does not support."""
    quoted = f" ({source.fragment})" if source.fragment else ""
    return UnsupportedError(f"{what} is not supported, at {source}{quoted}")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a header type; `offset` is in bits from the start of the header.

    A `varbit` field has room for `width` bits and, per packet, a length of its own. The fields behind it lie
    behind that room in the scratch, and behind the field's own length in a packet.
    """

    name: str
    width: int
    signed: bool
    offset: int
    varbit: bool = False


@dataclass(frozen=True, slots=True)
class HeaderType:
    """A header or metadata layout."""

    name: str
    fields: dict[str, Field]
    source: Source

    @property
    def bits(self) -> int:
        """The width of the whole header."""
        return sum(f.width for f in self.fields.values())

    @property
    def bytes(self) -> int:
        """The length of the whole header in a packet; with a varbit field, the greatest one."""
        return self.bits // 8

    @property
    def varbit(self) -> Field | None:
        """The field of variable length, where there is one."""
        return next((f for f in self.fields.values() if f.varbit), None)


@dataclass(frozen=True, slots=True)
class Header:
    """A header instance, or a metadata struct where `metadata`; `index` is its validity bit.

    `rivals` are the other members of the header union it is in: at most one of them is valid.
    """

    name: str
    type: HeaderType
    metadata: bool
    index: int
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """A header stack: the names of its elements."""

    name: str
    headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A header union: its headers by the names of its members."""

    name: str
    members: dict[str, str]


@dataclass(frozen=True, slots=True)
class UnionStack:
    """A stack of header unions: the names of its elements."""

    name: str
    unions: tuple[str, ...]


# Expressions. Every node is one of these; `Expr` is their union.


@dataclass(frozen=True, slots=True)
class Const:
    """An integer."""

    value: int


@dataclass(frozen=True, slots=True)
class Bool:
    """A truth value."""

    value: bool


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field of a header or metadata instance; `field` may be `VALID`."""

    header: str
    field: str


@dataclass(frozen=True, slots=True)
class StackField:
    """A field of the last extracted element of a stack; of its `member` in a stack of unions."""

    stack: str
    field: str
    member: str | None = None


@dataclass(frozen=True, slots=True)
class UnionNext:
    """A member of the next element of a stack of unions, as the target of an extract."""

    stack: str
    member: str


@dataclass(frozen=True, slots=True)
class Element:
    """The element of a header stack at an index known only at run time."""

    stack: str
    index: Expr


@dataclass(frozen=True, slots=True)
class ElementField:
    """A field of such an element: by its number in the header type, or `VALID`."""

    element: Element
    field: int | str


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Bits ahead of the parser's cursor."""

    offset: int
    width: int


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of the enclosing action."""

    index: int


@dataclass(frozen=True, slots=True)
class Named:
    """A named object as an argument: a header, stack, calculation, counter or register array."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation."""

    op: str
    left: Expr | None
    right: Expr | None
    condition: Expr | None = None


Expr = (
    Const | Bool | FieldRef | StackField | UnionNext | Element | ElementField | Lookahead | Param | Named | Op
)


def inside(expr: Expr | None) -> Iterator[Expr]:
    """Yield an expression and every expression in it."""
    if expr is None:
        return
    yield expr
    if isinstance(expr, Op):
        for part in (expr.left, expr.right, expr.condition):
            yield from inside(part)
    elif isinstance(expr, ElementField):
        yield from inside(expr.element)
    elif isinstance(expr, Element):
        yield from inside(expr.index)


@dataclass(frozen=True, slots=True)
class Primitive:
    """One step of an action, or of a parser state."""

    op: str
    arguments: tuple[Expr, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an action."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Action:
    """An action; tables have copies of their own, so `name` is not unique, `id` is."""

    id: int
    name: str
    parameters: tuple[Parameter, ...]
    primitives: tuple[Primitive, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class KeyField:
    """One element of a table's key."""

    name: str
    kind: str
    field: FieldRef
    width: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A const entry: one (kind-dependent) value per key element, as `dataplane.MatchValues`."""

    key: tuple[int | tuple[int, int] | None, ...]
    priority: int
    action_id: int
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A match-action table; `keys` is empty for a direct action call."""

    name: str
    keys: tuple[KeyField, ...]
    kind: str
    size: int
    profile: str | None
    with_counter: bool
    actions: tuple[int, ...]
    next_by_action: dict[int, str | None]
    next_hit: tuple[str | None] | None
    next_miss: tuple[str | None] | None
    default_next: str | None
    default_action: int | None
    default_arguments: tuple[int, ...]
    default_const: bool
    entries: tuple[Entry, ...]
    source: Source
    meter: str | None = None
    ages: bool = False


@dataclass(frozen=True, slots=True)
class Conditional:
    """A branch of a pipeline."""

    name: str
    condition: Expr
    if_true: str | None
    if_false: str | None
    source: Source


@dataclass(frozen=True, slots=True)
class Profile:
    """An action profile, with the hash of its selector where it has one."""

    name: str
    size: int
    algorithm: str | None
    inputs: tuple[Expr, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A control: a graph of tables and conditionals."""

    name: str
    start: str | None
    tables: dict[str, Table]
    conditionals: dict[str, Conditional]
    profiles: dict[str, Profile]


@dataclass(frozen=True, slots=True)
class Transition:
    """A way out of a parser state: taken where key & mask == value; `mask` None is the default.

    With a `value_set`, taken where the set has the key.
    """

    value: int
    mask: int | None
    next_state: str | None
    value_set: str | None = None


@dataclass(frozen=True, slots=True)
class ParserState:
    """A parser state: what it does, what it selects on, and where it goes."""

    name: str
    operations: tuple[Primitive, ...]
    key: tuple[Expr, ...]
    transitions: tuple[Transition, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Piece:
    """An input of a calculation: an expression of `width` bits, or a whole header (`Named`)."""

    value: Expr
    width: int


@dataclass(frozen=True, slots=True)
class Calculation:
    """A hash or checksum over a list of inputs."""

    name: str
    algorithm: str
    inputs: tuple[Piece, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum field that is verified after the parser or updated before the deparser."""

    target: FieldRef
    calculation: str
    verify: bool
    update: bool
    condition: Expr | None
    source: Source


@dataclass(frozen=True, slots=True)
class CounterArray:
    """An indexed counter, or a direct one where `table`."""

    name: str
    size: int
    table: str | None


@dataclass(frozen=True, slots=True)
class RegisterArray:
    """A register array of bit<width>."""

    name: str
    size: int
    width: int


@dataclass(frozen=True, slots=True)
class MeterArray:
    """A two-rate three-colour meter array; with a `table`, the direct meter of it, which sets `target`."""

    name: str
    size: int
    counts_bytes: bool
    table: str | None
    target: FieldRef | None


@dataclass(frozen=True, slots=True)
class Digest:
    """What a digest tells the control plane: values, each of a width."""

    name: str
    id: int
    values: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A parser value set: a set of keys that the control plane fills."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Program:
    """A whole program."""

    name: str
    headers: dict[str, Header]
    stacks: dict[str, Stack]
    errors: dict[str, int]
    parser_start: str | None
    parser: dict[str, ParserState]
    deparser: tuple[str, ...]
    actions: dict[int, Action]
    ingress: Pipeline
    egress: Pipeline
    calculations: dict[str, Calculation]
    checksums: tuple[Checksum, ...]
    counters: dict[str, CounterArray] = field(default_factory=dict)
    registers: dict[str, RegisterArray] = field(default_factory=dict)
    unions: dict[str, Union] = field(default_factory=dict)
    union_stacks: dict[str, UnionStack] = field(default_factory=dict)
    value_sets: dict[str, ValueSet] = field(default_factory=dict)
    meters: dict[str, MeterArray] = field(default_factory=dict)
    digests: dict[int, Digest] = field(default_factory=dict)
    field_lists: dict[int, tuple[FieldRef, ...]] = field(default_factory=dict)
    """Metadata that a clone, a resubmitted or a recirculated packet keeps, by the list's number."""

    def field(self, reference: FieldRef) -> Field:
        """Return the field a reference names."""
        if reference.field == VALID:
            return Field(VALID, 1, False, 0)
        return self.headers[reference.header].type.fields[reference.field]

    def primitives(self) -> Iterator[Primitive]:
        """Yield every step of every action and parser state."""
        for action in self.actions.values():
            yield from action.primitives
        for state in self.parser.values():
            yield from state.operations

    def tables(self) -> dict[str, Table]:
        """Return every table of both pipelines by name."""
        return {**self.ingress.tables, **self.egress.tables}

    def profiles(self) -> dict[str, Profile]:
        """Return every action profile of both pipelines by name."""
        return {**self.ingress.profiles, **self.egress.profiles}


def named(expr: Expr | None) -> str:
    """Return the name an argument states; ValueError where it names nothing."""
    if not isinstance(expr, Named):
        raise ValueError(f"the BMv2 JSON contradicts itself: {expr} names nothing")
    return expr.name
