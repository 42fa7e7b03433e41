"""What STF's commands mean for a program: names resolved, values parsed; a target carries them out.

Names are resolved by the rules of p4c's bmv2stf.py.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeVar

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.dataplane import Call, Count, FieldValue, MatchValues, MeterRates
from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.script import Command, ScriptError

Replica = tuple[int, int]
"""Egress port and instance."""

_MILLION = 1_000_000
_COMPARISONS = {"==": "__eq__", "!=": "__ne__", "<=": "__le__", "<": "__lt__", ">=": "__ge__", ">": "__gt__"}
_NOTHING_TO_DO = {"wait", "mirroring_get"}
"""A packet is through when `packet` returns; and what only prints is not asked for."""

Named = TypeVar("Named", ir.Table, ir.Action)


class Interpreter(ABC):
    """Runs commands on a target; `sent` has what left so far, by port."""

    def __init__(self, program: ir.Program) -> None:
        self.sent: dict[int, list[bytes]] = {}
        self._program = program
        self._tables = program.tables()
        self._nodes: list[tuple[int, tuple[int, ...]]] = []
        self._groups: dict[int, list[Replica]] = {}
        self._labels: dict[str, tuple[str, MatchValues, int]] = {}

    @abstractmethod
    def close(self) -> None:
        """Free the target."""

    @abstractmethod
    def packet(self, port: int, data: bytes) -> None:
        """Send a packet into a port."""

    @abstractmethod
    def insert(self, table: ir.Table, key: MatchValues, priority: int, action: Call) -> None:
        """Add an entry; the highest priority wins."""

    @abstractmethod
    def set_default(self, table: ir.Table, action: Call) -> None:
        """Set a table's default action."""

    @abstractmethod
    def set_group(self, group: int, replicas: Sequence[Replica]) -> None:
        """Set the members of a multicast group."""

    @abstractmethod
    def set_session(self, session: int, replicas: Sequence[Replica], group: int | None) -> None:
        """Set where clones of a session go: to replicas, which are those of a group where one is given."""

    @abstractmethod
    def remove_session(self, session: int) -> None:
        """Forget a clone session."""

    @abstractmethod
    def read_counter(self, counter: str, index: int) -> Count:
        """Return a cell of a counter array."""

    @abstractmethod
    def read_direct(self, table: str, key: MatchValues, priority: int) -> Count:
        """Return the direct counter of an entry."""

    @abstractmethod
    def write_counter(self, counter: str, index: int, count: Count) -> None:
        """Set a cell of a counter array."""

    @abstractmethod
    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        """Set cells of a register array."""

    @abstractmethod
    def configure_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        """Set the rates of a meter."""

    @abstractmethod
    def reset(self) -> None:
        """Take away all entries, and give tables their own default actions again."""

    def run(self, command: Command) -> None:
        """Carry out a command. Raises ScriptError for one that is unknown or names what is not there."""
        if command.name in _NOTHING_TO_DO:
            return
        method = getattr(self, f"_do_{command.name}", None)
        if method is None:
            raise ScriptError(f"line {command.line}: {command.name} is no STF command")
        try:
            method(command)
        except (IndexError, KeyError, ValueError) as error:
            if isinstance(error, ScriptError):
                raise
            raise ScriptError(f"line {command.line}: {command.name}: {error!r}") from error

    def _do_reset(self, command: Command) -> None:
        self.reset()
        self._labels.clear()

    def _do_packet(self, command: Command) -> None:
        self.packet(int(command.words[0]), bytes.fromhex(command.words[1]))

    def _do_add(self, command: Command) -> None:
        table = self._table(command.words[0])
        given: dict[str, str] = {}
        for name, value in command.matches:
            given[self._key(table, name)] = value
        key = tuple(self._field(k, given.get(k.name)) for k in table.keys)
        ranked = table.kind in ("ternary", "range")
        priority = script.number(command.words[1]) + 1 if command.words[1] else 1
        priority = priority if ranked else 0
        self.insert(table, key, priority, self._call(table, command))
        self._labels[f"${command.label}"] = (table.name, key, priority)

    def _do_setdefault(self, command: Command) -> None:
        table = self._table(command.words[0])
        self.set_default(table, self._call(table, command))

    def _call(self, table: ir.Table, command: Command) -> Call:
        assert command.call is not None
        actions = [self._program.actions[number] for number in table.actions]
        action = _one(actions, command.call.action, f"action of table {table.name}")
        arguments = command.call.arguments
        return Call(action.name, tuple(script.number(arguments[p.name]) for p in action.parameters))

    def _table(self, name: str) -> ir.Table:
        return _one(list(self._tables.values()), name, "table")

    @staticmethod
    def _key(table: ir.Table, name: str) -> str:
        """Return the key that a name means."""
        names = [key.name for key in table.keys]
        name = re.sub(r"\$(\d+)", r"[\1]", name)
        for candidate in (name, f"{name}$", f"{name}.{ir.VALID}", name.removesuffix("valid") + ir.VALID):
            if candidate in names:
                return candidate
        ending = [n for n in names if n.endswith((f".{name}", f".{name}$"))]
        if name == "valid":
            ending += [n for n in names if n.endswith(ir.VALID)]
        if ending:
            return ending[0]
        raise ScriptError(f"table {table.name} has no key {name}, but {', '.join(names)}")

    @staticmethod
    def _field(key: ir.KeyField, text: str | None) -> FieldValue:
        if key.kind == "exact":
            return script.number(text or "0")
        if key.kind == "lpm":
            value, length = script.prefix(text, key.width) if text else (0, 0)
            mask = (1 << key.width) - (1 << key.width - length)
            return value & mask, length
        if key.kind == "optional":
            return None if text is None else script.number(text)
        if key.kind == "range":
            if text is None:
                return 0, (1 << key.width) - 1
            low, _, high = text.partition("/")
            return script.number(low), script.number(high or low)
        value, mask = script.masked(text) if text else (0, 0)
        return value & mask, mask & (1 << key.width) - 1

    def _do_mc_mgrp_create(self, command: Command) -> None:
        group = script.number(command.words[0])
        self._groups[group] = []
        self.set_group(group, [])

    def _do_mc_node_create(self, command: Command) -> None:
        rid, *ports = (script.number(word) for word in command.words)
        self._nodes.append((rid, tuple(ports)))

    def _do_mc_node_associate(self, command: Command) -> None:
        group, node = (script.number(word) for word in command.words)
        rid, ports = self._nodes[node]
        self._groups[group] += [(port, rid) for port in ports]
        self.set_group(group, self._groups[group])

    def _do_mirroring_add(self, command: Command) -> None:
        session, port = (script.number(word) for word in command.words)
        self.set_session(session, [(port, 0)], None)

    def _do_mirroring_add_mc(self, command: Command) -> None:
        session, group = (script.number(word) for word in command.words)
        self.set_session(session, self._groups[group], group)

    def _do_mirroring_delete(self, command: Command) -> None:
        self.remove_session(script.number(command.words[0]))

    def _do_register_read(self, command: Command) -> None:
        """Check the name: it only prints."""
        _named(self._program.registers, command.words[0])

    def _do_register_write(self, command: Command) -> None:
        name = _named(self._program.registers, command.words[0])
        index, value = (script.number(word) for word in command.words[1:])
        self.write_register(name, index, [value])

    def _do_register_reset(self, command: Command) -> None:
        name = _named(self._program.registers, command.words[0])
        self.write_register(name, 0, [0] * self._program.registers[name].size)

    def _do_counter_read(self, command: Command) -> None:
        self._count(command.words[0], command.words[1])

    def _do_counter_write(self, command: Command) -> None:
        name = _named(self._program.counters, command.words[0])
        index, packets, size = (script.number(word) for word in command.words[1:])
        self.write_counter(name, index, (packets, size))

    def _do_check_counter(self, command: Command) -> None:
        """`check_counter NAME(INDEX) [packets|bytes] == NUMBER`, for packets.

        Bytes are read only: what of a frame counts is each target's own.
        """
        text = " ".join(command.words)
        name, _, rest = text.partition("(")
        index, _, condition = rest.partition(")")
        got, _ = self._count(name.strip(), index)
        if not condition.strip():
            return
        kind, comparison, wanted = condition.split()
        if kind.lower() == "bytes":
            return
        if not getattr(got, _COMPARISONS[comparison])(script.number(wanted)):
            raise ScriptError(f"line {command.line}: counter {text}: it is {got}")

    def _count(self, name: str, index: str) -> Count:
        if index in self._labels:
            return self.read_direct(*self._labels[index])
        return self.read_counter(_named(self._program.counters, name), script.number(index))

    def _do_meter_get_rates(self, command: Command) -> None:
        """Check the name: it only prints."""
        _named(self._program.meters, command.words[0])

    def _do_meter_set_rates(self, command: Command) -> None:
        name, index, *rates = _spaced(command.words)
        meter = _named(self._program.meters, name)
        self.configure_meter(meter, script.number(index), _rates(rates))

    def _do_meter_array_set_rates(self, command: Command) -> None:
        name, *rates = _spaced(command.words)
        meter = _named(self._program.meters, name)
        for index in range(max(self._program.meters[meter].size, 1)):
            self.configure_meter(meter, index, _rates(rates))


def _spaced(words: Sequence[str]) -> list[str]:
    """Return the words, `rate : burst` joined."""
    return " ".join(words).replace(" :", ":").replace(": ", ":").split()


def _rates(texts: Sequence[str]) -> MeterRates:
    """Return rates given as `units per microsecond:burst`, the committed first."""
    (cir, cburst), (pir, pburst) = (text.split(":") for text in texts)
    return MeterRates(int(float(cir) * _MILLION), int(cburst), int(float(pir) * _MILLION), int(pburst))


def _named(known: Iterable[str], name: str) -> str:
    return _pick(list(known), name, "object")


def _one(known: Sequence[Named], name: str, what: str) -> Named:
    found = _pick([one.name for one in known], name, what)
    return next(one for one in known if one.name == found)


def _pick(names: Sequence[str], name: str, what: str) -> str:
    """Return the name that is meant: itself, or the one that ends in it."""
    if name in names:
        return name
    ending = sorted({n for n in names if n.endswith(name)})
    if len(ending) != 1:
        raise ScriptError(f"there is {'no' if not ending else 'more than one'} {what} {name}")
    return ending[0]
