"""A data plane in memory: enough of one to test the protocol's logic without a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from finsy.proto import p4i

from duet_p4.xdp_switch.dataplane import (
    Call,
    Count,
    InitialEntry,
    MatchValues,
    TableFullError,
    TargetAction,
    UnsupportedError,
)


class MemoryPipeline:
    """Keeps what it is told in dictionaries, and refuses what the contract says it need not take."""

    def __init__(self, info: p4i.P4Info) -> None:
        self.sizes = {table.preamble.name: table.size for table in info.tables}
        self.const = {t.preamble.name: t for t in info.tables if t.is_const_table}
        self.actions = {action.preamble.id: action.preamble.name for action in info.actions}
        self.tables: dict[str, dict[tuple[MatchValues, int], TargetAction]] = {n: {} for n in self.sizes}
        self.direct: dict[tuple[str, MatchValues, int], Count] = {}
        self.defaults: dict[str, TargetAction] = {}
        self.counters = {c.preamble.name: [(0, 0)] * c.size for c in info.counters}
        self.registers = {r.preamble.name: [0] * r.size for r in info.registers}
        self.members: dict[str, dict[int, Call]] = {p.preamble.name: {} for p in info.action_profiles}
        self.groups: dict[str, dict[int, list[int]]] = {p.preamble.name: {} for p in info.action_profiles}
        self.sent: list[bytes] = []
        self.closed = False
        for entry in (entry for name in self.const for entry in self.initial_entries(name)):
            self.tables[next(iter(self.const))][entry.key, entry.priority] = entry.action

    def initial_entries(self, table: str) -> Sequence[InitialEntry]:
        if table not in self.const:
            return []
        return [
            InitialEntry((6,), 0, Call("NoAction", ()), is_const=True),
            InitialEntry((253,), 0, Call("IngressImpl.drop", ()), is_const=True),
        ]

    def insert(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        entries = self.tables[table]
        assert (key, priority) not in entries
        if len(entries) >= self.sizes[table]:
            raise TableFullError(f"table {table} is full ({self.sizes[table]} entries)")
        entries[key, priority] = action

    def modify(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        assert (key, priority) in self.tables[table]
        self.tables[table][key, priority] = action

    def delete(self, table: str, key: MatchValues, priority: int) -> None:
        del self.tables[table][key, priority]
        self.direct.pop((table, key, priority), None)

    def default_action(self, table: str) -> Call | None:
        if table == "IngressImpl.wcmp":
            return None
        return Call("IngressImpl.count_drop", (1,)) if table == "IngressImpl.host" else Call("NoAction", ())

    def set_default(self, table: str, action: TargetAction | None) -> None:
        if action is None:
            self.defaults.pop(table, None)
        else:
            self.defaults[table] = action

    def read_direct(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[Count]:
        return [self.direct.get((table, *key), (0, 0)) for key in keys]

    def write_direct(self, table: str, key: MatchValues, priority: int, count: Count) -> None:
        assert (key, priority) in self.tables[table]
        self.direct[table, key, priority] = count

    def read_counter(self, counter: str, first: int, number: int) -> list[Count]:
        return self.counters[counter][first : first + number]

    def write_counter(self, counter: str, index: int, count: Count) -> None:
        self.counters[counter][index] = count

    def read_register(self, register: str, first: int, number: int) -> list[int]:
        return self.registers[register][first : first + number]

    def write_register(self, register: str, index: int, value: int) -> None:
        self.registers[register][index] = value

    def set_member(self, profile: str, handle: int, action: Call) -> None:
        self.members[profile][handle] = action

    def delete_member(self, profile: str, handle: int) -> None:
        assert all(handle not in group for group in self.groups[profile].values())
        del self.members[profile][handle]

    def set_group(self, profile: str, handle: int, members: Sequence[int]) -> None:
        assert all(member in self.members[profile] for member in members)
        self.groups[profile][handle] = list(members)

    def delete_group(self, profile: str, handle: int) -> None:
        del self.groups[profile][handle]

    def packet_out(self, frame: bytes) -> None:
        self.sent.append(frame)

    def replay(self, frame: bytes, ingress_port: int) -> list[tuple[int, bytes]]:
        return [(ingress_port, frame)]

    def close(self) -> None:
        self.closed = True


class MemoryDevice:
    """Takes every program but b"unsupported" and b"broken"; `arrive` plays a packet to the CPU port."""

    def __init__(self) -> None:
        self.packet_in_fd, self._wake = os.pipe()
        os.set_blocking(self.packet_in_fd, False)
        self._frames: list[bytes] = []
        self.pipeline: MemoryPipeline | None = None
        self.ports: dict[int, str] = {}

    def add_port(self, number: int, interface: str) -> None:
        self.ports[number] = interface

    def verify(self, config: bytes, info: p4i.P4Info) -> None:
        if config == b"unsupported":
            raise UnsupportedError("extern frobnicate (hmux.p4:7) is not supported")
        if config == b"broken":
            raise ValueError("p4_device_config is no BMv2 JSON")

    def load(self, config: bytes, info: p4i.P4Info) -> MemoryPipeline:
        self.verify(config, info)
        if self.pipeline is not None:
            self.pipeline.close()
        self.pipeline = MemoryPipeline(info)
        return self.pipeline

    def arrive(self, frame: bytes) -> None:
        self._frames.append(frame)
        os.write(self._wake, b"x")

    def receive(self) -> bytes | None:
        if not self._frames:
            return None
        os.read(self.packet_in_fd, 1)
        return self._frames.pop(0)

    def close(self) -> None:
        os.close(self.packet_in_fd)
        os.close(self._wake)
