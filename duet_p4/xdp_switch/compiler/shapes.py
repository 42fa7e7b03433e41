"""Which headers may be valid together when a packet leaves: its shape.

Most packets have one of few shapes, and for each of those the deparser is straight code with known offsets.
Whatever leaves in another shape, after an error of the parser for one, is put together header by header.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized

from duet_p4.xdp_switch.compiler import ir

Shape = frozenset[str]
"""The names of the valid headers."""

MAX_SHAPES = 10
MAX_PATHS = 2
MAX_NODES = 150
"""Tables and conditions of a program that may have more than one path: the verifier walks all of them."""
MAX_PARSED = 24
"""Headers of such a program, and states of its parser."""
_MAX_STATES = 20_000
_HARMLESS = {
    "assign",
    "assign_VL",
    "set",
    "count",
    "execute_meter",
    "modify_field_with_hash_based_offset",
    "modify_field_rng_uniform",
    "register_read",
    "register_write",
    "mark_to_drop",
    "drop",
    "no_op",
    "log_msg",
    "truncate",
    "verify",
    "advance",
    "shift",
    "assert",
    "assume",
    "generate_digest",
}


class Shapes:
    """What becomes of a packet's shape in the controls of a program."""

    def __init__(self, program: ir.Program) -> None:
        self._actions = {number: _Action(program, action) for number, action in program.actions.items()}

    def after(self, action: int, shape: Shape) -> Shape | None:
        """Return the shape once an action has run, None where that is not always the same."""
        try:
            found = {changed for changed, _ in self._actions[action].outcomes(shape)}
        except _UnknownError:
            return None
        return found.pop() if len(found) == 1 else None

    @staticmethod
    def decided(condition: ir.Expr, shape: Shape) -> bool | None:
        """Tell whether a condition on validity holds, None where it looks at more."""
        return _decided(condition, shape)


class _UnknownError(Exception):
    """A program does to headers what is not followed here."""


def common_shapes(program: ir.Program) -> list[Shape]:
    """Return the shapes that are worth code of their own: the smallest, those without stacks first.

    Empty where the program has none that can be told when compiling.
    """
    try:
        found = _Walk(program).shapes()
    except _UnknownError:
        return []
    emitted = list(program.deparser)
    stacked = {name for stack in program.stacks.values() for name in stack.headers}
    sizes = {name: program.headers[name].type.bytes for name in emitted}
    fits = {shape for shape in found if sum(sizes[name] for name in shape if name in sizes) >= 14}
    fits = {s for s in fits if not any(program.headers[name].type.varbit is not None for name in s)}
    ordered = sorted(fits, key=lambda s: (bool(s & stacked), len(s), sorted(s)))
    return ordered[:MAX_SHAPES]


def parsed_shapes(program: ir.Program) -> list[Shape]:
    """Return the shapes at the end of the parser that are worth a path of their own through the program.

    They are those that its states tell most of; what parsers do once or twice, options and the like, is not.
    """
    nodes = sum(len(p.tables) + len(p.conditionals) for p in (program.ingress, program.egress))
    if nodes > MAX_NODES or max(len(program.headers), len(program.parser)) > MAX_PARSED:
        return []
    try:
        ends, met = _Walk(program).parsed()
    except _UnknownError:
        return []
    stacked = {name for stack in program.stacks.values() for name in stack.headers}
    known = [shape for shape in ends if shape and not shape & stacked]
    return sorted(known, key=lambda s: (-met[s], -len(s), sorted(s)))[:MAX_PATHS]


def extracted_in_order(program: ir.Program, headers: Sequence[ir.Header], shape: Shape) -> bool:
    """Tell whether packets that leave the parser in a shape have its headers one behind the other.

    That is so where each is extracted once, in the order in which it is emitted. Whether something comes
    between them, the number of bytes that the parser took tells.
    """
    names = [header.name for header in headers]
    return set(names) == shape and _Walk(program).extracts_in_order(names)


class _Walk:
    """Walks parser and controls with sets of valid headers."""

    def __init__(self, program: ir.Program) -> None:
        self._program = program
        self._actions = {number: _Action(program, action) for number, action in program.actions.items()}

    def shapes(self) -> set[Shape]:
        shapes, _ = self.parsed()
        for pipeline in (self._program.ingress, self._program.egress):
            shapes = self._control(pipeline, shapes)
        return shapes

    def parsed(self) -> tuple[set[Shape], Counter[Shape]]:
        """Return the shapes at the end of the parser, and in how many states packets of each may be."""
        program = self._program
        ends: set[Shape] = set()
        start = (program.parser_start, frozenset[str]())
        seen, pending = {start}, [start]
        while pending:
            name, shape = pending.pop()
            if name is None:
                ends.add(shape)
                continue
            state = program.parser[name]
            for operation in state.operations:
                shape = self._parsed(operation, shape)
            for following in {t.next_state for t in state.transitions}:
                after = (following, shape)
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
                    _check(seen)
        return ends, Counter(shape for name, shape in seen if name is not None)

    def extracts_in_order(self, names: Sequence[str]) -> bool:
        """Tell whether what ends with these headers valid has extracted each once, in this order."""
        wanted = frozenset(names)
        start: tuple[str | None, Shape, int] = (self._program.parser_start, frozenset(), 0)
        seen, pending = {start}, [start]
        while pending:
            name, shape, count = pending.pop()
            if name is None:
                if shape == wanted and count != len(names):
                    return False
                continue
            state = self._program.parser[name]
            for operation in state.operations:
                target = operation.arguments[0] if operation.arguments else None
                if isinstance(target, ir.Named) and target.name in wanted and count >= 0:
                    follows = operation.op == "extract" and names[count : count + 1] == [target.name]
                    count = count + 1 if follows else -1
                shape = self._parsed(operation, shape)
            for following in {t.next_state for t in state.transitions}:
                after = (following, shape, count)
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
                    _check(seen)
        return True

    def _parsed(self, operation: ir.Primitive, shape: Shape) -> Shape:
        if operation.op != "extract":
            return _applied(self._program, operation, shape)
        target = operation.arguments[0]
        if not isinstance(target, ir.Named):
            raise _UnknownError
        if target.kind != "stack":
            return _with(self._program, target.name, shape)
        free = [n for n in self._program.stacks[target.name].headers if n not in shape]
        return _with(self._program, free[0], shape) if free else shape

    def _control(self, pipeline: ir.Pipeline, shapes: Iterable[Shape]) -> set[Shape]:
        ends: set[Shape] = set()
        pending: list[tuple[str | None, Shape]] = [(pipeline.start, shape) for shape in shapes]
        seen = set(pending)
        while pending:
            node, shape = pending.pop()
            if node is None:
                ends.add(shape)
                continue
            for after in self._after(pipeline, node, shape, ends):
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
                    _check(seen)
        return ends

    def _after(
        self, pipeline: ir.Pipeline, node: str, shape: Shape, ends: set[Shape]
    ) -> Iterator[tuple[str | None, Shape]]:
        if node in pipeline.conditionals:
            conditional = pipeline.conditionals[node]
            holds = _decided(conditional.condition, shape)
            if holds is not False:
                yield conditional.if_true, shape
            if holds is not True:
                yield conditional.if_false, shape
            return
        table = pipeline.tables[node]
        following = {*table.next_by_action.values(), table.default_next}
        following |= {*(table.next_hit or ()), *(table.next_miss or ())}
        numbers = {*table.actions, *(() if table.default_action is None else (table.default_action,))}
        if table.keys or table.default_action is None:
            yield from ((after, shape) for after in following)
        for number in numbers:
            if not table.keys and table.default_const and number != table.default_action:
                continue
            for changed, exits in self._actions[number].outcomes(shape):
                if exits:
                    ends.add(changed)
                else:
                    yield from ((after, changed) for after in following)


class _Action:
    """What an action does to a shape."""

    def __init__(self, program: ir.Program, action: ir.Action) -> None:
        self._program = program
        self._steps = action.primitives
        self._branches = any(p.op.startswith("_jump") for p in self._steps)

    def outcomes(self, shape: Shape) -> set[tuple[Shape, bool]]:
        """Return the shapes after the action, and whether its pipeline ends there."""
        outcomes: set[tuple[Shape, bool]] = set()
        pending = [(0, shape, False)]
        seen = set(pending)
        while pending:
            at, current, exits = pending.pop()
            if at >= len(self._steps):
                outcomes.add((current, exits))
                continue
            step = self._steps[at]
            following = [at + 1]
            if step.op.startswith("_jump"):
                target = step.arguments[-1]
                if not isinstance(target, ir.Const):
                    raise _UnknownError
                following = [target.value] if step.op == "_jump" else [at + 1, target.value]
            elif step.op == "exit":
                exits = True
            else:
                current = _applied(self._program, step, current)
            for after in ((place, current, exits) for place in following):
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
        return outcomes


def _applied(program: ir.Program, step: ir.Primitive, shape: Shape) -> Shape:
    if step.op in _HARMLESS:
        return shape
    target = step.arguments[0] if step.arguments else None
    if not isinstance(target, ir.Named) or target.name not in program.headers:
        raise _UnknownError
    if step.op == "add_header":
        return _with(program, target.name, shape)
    if step.op == "remove_header":
        return shape - {target.name}
    source = step.arguments[1] if len(step.arguments) > 1 else None
    if step.op == "assign_header" and isinstance(source, ir.Named) and source.name in program.headers:
        if program.headers[target.name].metadata:
            return shape
        return _with(program, target.name, shape) if source.name in shape else shape - {target.name}
    raise _UnknownError


def _with(program: ir.Program, name: str, shape: Shape) -> Shape:
    return (shape - set(program.headers[name].rivals)) | {name}


def _decided(condition: ir.Expr, shape: Shape) -> bool | None:
    """Tell whether a condition on validity holds, None where it looks at more."""
    if isinstance(condition, ir.Op):
        if condition.op == "d2b" and isinstance(condition.right, ir.FieldRef):
            if condition.right.field == ir.VALID:
                return condition.right.header in shape
        elif condition.op == "valid" and isinstance(condition.right, ir.Named):
            return condition.right.name in shape
        elif condition.op == "not" and condition.right is not None:
            inner = _decided(condition.right, shape)
            return None if inner is None else not inner
        elif condition.op in ("and", "or") and condition.left is not None and condition.right is not None:
            sides = (_decided(condition.left, shape), _decided(condition.right, shape))
            certain = condition.op == "or"
            if certain in sides:
                return certain
            return None if None in sides else not certain
    return None


def _check(seen: Sized) -> None:
    if len(seen) > _MAX_STATES:
        raise _UnknownError
