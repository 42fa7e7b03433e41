"""A program without ports, and STF's commands on it: packets go through by test runs of the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from finsy.proto import p4i

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.dataplane import Call, FieldValue, MatchValues, MeterRates
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.script import Command, ScriptError

_DEVMAP, _ARRAY = 14, 2
_PORTS, _INTERFACES = 512, 65536
_PADDING = 64
_SMALLEST_PRIORITY = 1
_MILLION = 1_000_000

Named = TypeVar("Named", ir.Table, ir.Action)


class Switch:
    """A loaded program. Raises as `dataplane.Device.verify` does; needs root."""

    def __init__(self, config: bytes, info: p4i.P4Info) -> None:
        self._shared = {
            "egress_ports": bpf.create_map(_DEVMAP, "egress_ports", 4, 4, _PORTS),
            "ingress_ports": bpf.create_map(_ARRAY, "ingress_ports", 4, 4, _INTERFACES),
        }
        try:
            self._pipeline = XdpPipeline(config, info, self._shared, padding=_PADDING)
        except BaseException:
            self._close_shared()
            raise
        self._program = self._pipeline.compiled.program
        self._tables = self._program.tables()
        self._nodes: list[tuple[int, tuple[int, ...]]] = []
        self._groups: dict[int, list[tuple[int, int]]] = {}
        self._labels: dict[str, tuple[str, MatchValues, int]] = {}
        self.sent: dict[int, list[bytes]] = {}

    def close(self) -> None:
        """Free the program."""
        self._pipeline.close()
        self._close_shared()

    def _close_shared(self) -> None:
        for shared in self._shared.values():
            shared.close()

    def run(self, command: Command) -> None:
        """Carry out a command. Raises ScriptError for one that is unknown or names what is not there."""
        method = getattr(self, f"_do_{command.name}", None)
        if method is None:
            raise ScriptError(f"line {command.line}: {command.name} is no STF command")
        try:
            method(command)
        except (IndexError, KeyError, ValueError) as error:
            if isinstance(error, ScriptError):
                raise
            raise ScriptError(f"line {command.line}: {command.name}: {error!r}") from error

    def _do_packet(self, command: Command) -> None:
        port, data = command.words
        for egress, frame in self._pipeline.replay(bytes.fromhex(data), int(port)):
            self.sent.setdefault(egress, []).append(frame)

    def _do_wait(self, command: Command) -> None:
        """There is nothing to wait for: a packet is through when `replay` returns."""

    def _do_add(self, command: Command) -> None:
        table = self._table(command.words[0])
        given: dict[str, str] = {}
        for name, value in command.matches:
            given[self._key(table, name)] = value
        key = tuple(self._field(k, given.get(k.name)) for k in table.keys)
        ranked = table.kind in ("ternary", "range")
        priority = script.number(command.words[1]) + _SMALLEST_PRIORITY if command.words[1] else 1
        priority = priority if ranked else 0
        self._pipeline.insert(table.name, key, priority, self._call(table, command))
        self._labels[f"${command.label}"] = (table.name, key, priority)

    def _do_setdefault(self, command: Command) -> None:
        table = self._table(command.words[0])
        self._pipeline.set_default(table.name, self._call(table, command))

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
        """Return the key that a name means, by the rules of p4c's bmv2stf.py."""
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
    def _field(key: ir.Key, text: str | None) -> FieldValue:
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
        self._groups[script.number(command.words[0])] = []

    def _do_mc_node_create(self, command: Command) -> None:
        rid, *ports = (script.number(word) for word in command.words)
        self._nodes.append((rid, tuple(ports)))

    def _do_mc_node_associate(self, command: Command) -> None:
        group, node = (script.number(word) for word in command.words)
        rid, ports = self._nodes[node]
        self._groups[group] += [(port, rid) for port in ports]
        self._pipeline.multicast.put(group, self._groups[group])

    def _do_mirroring_add(self, command: Command) -> None:
        session, port = (script.number(word) for word in command.words)
        self._pipeline.clones.put(session, [(port, 0)])

    def _do_mirroring_add_mc(self, command: Command) -> None:
        session, group = (script.number(word) for word in command.words)
        self._pipeline.clones.put(session, self._groups[group])

    def _do_mirroring_delete(self, command: Command) -> None:
        self._pipeline.clones.remove(script.number(command.words[0]))

    def _do_mirroring_get(self, command: Command) -> None:
        """It only prints."""

    def _do_register_read(self, command: Command) -> None:
        name = _named(self._program.registers, command.words[0])
        self._pipeline.read_register(name, script.number(command.words[1]), 1)

    def _do_register_write(self, command: Command) -> None:
        name = _named(self._program.registers, command.words[0])
        index, value = (script.number(word) for word in command.words[1:])
        self._pipeline.write_register(name, index, [value])

    def _do_register_reset(self, command: Command) -> None:
        name = _named(self._program.registers, command.words[0])
        self._pipeline.write_register(name, 0, [0] * self._program.registers[name].size)

    def _do_counter_read(self, command: Command) -> None:
        self._count(command.words[0], command.words[1])

    def _do_counter_write(self, command: Command) -> None:
        name = _named(self._program.counters, command.words[0])
        index, packets, size = (script.number(word) for word in command.words[1:])
        self._pipeline.write_counter(name, index, [(packets, size)])

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
        compare = {
            "==": "__eq__",
            "!=": "__ne__",
            "<=": "__le__",
            "<": "__lt__",
            ">=": "__ge__",
            ">": "__gt__",
        }
        if not getattr(got, compare[comparison])(script.number(wanted)):
            raise ScriptError(f"line {command.line}: counter {text}: it is {got}")

    def _count(self, name: str, index: str) -> tuple[int, int]:
        if index in self._labels:
            table, key, priority = self._labels[index]
            return self._pipeline.read_direct(table, [(key, priority)])[0]
        known = _named(self._program.counters, name)
        return self._pipeline.read_counter(known, script.number(index), 1)[0]

    def _do_meter_get_rates(self, command: Command) -> None:
        self._pipeline.meters[_named(self._pipeline.meters, command.words[0])].read(
            script.number(command.words[1])
        )

    def _do_meter_set_rates(self, command: Command) -> None:
        name, index, *rates = _spaced(command.words)
        meter = self._pipeline.meters[_named(self._pipeline.meters, name)]
        meter.configure(script.number(index), _rates(rates))

    def _do_meter_array_set_rates(self, command: Command) -> None:
        name, *rates = _spaced(command.words)
        meter = self._pipeline.meters[_named(self._pipeline.meters, name)]
        for index in range(meter.size):
            meter.configure(index, _rates(rates))


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
