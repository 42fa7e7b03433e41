"""A data plane in memory: enough of one to test the protocol's logic without a kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

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
        self.widths = {t.preamble.name: [f.bitwidth for f in t.match_fields] for t in info.tables}
        self.widths |= {a.preamble.name: [p.bitwidth for p in a.params] for a in info.actions}
        self.closed = False
        for entry in (entry for name in self.const for entry in self.initial_entries(name)):
            self.tables[next(iter(self.const))][entry.key, entry.priority] = entry.action

    def key_widths(self, table: str) -> Sequence[int]:
        return self.widths[table]

    def parameter_widths(self, action: str) -> Sequence[int]:
        return self.widths[action]

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

    def write_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        assert first + len(counts) <= len(self.counters[counter])
        self.counters[counter][first : first + len(counts)] = counts

    def read_register(self, register: str, first: int, number: int) -> list[int]:
        return self.registers[register][first : first + number]

    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        assert first + len(values) <= len(self.registers[register])
        self.registers[register][first : first + len(values)] = values

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

    def replay(self, frame: bytes, ingress_port: int) -> list[tuple[int, bytes]]:
        return [(ingress_port, frame)]

    def close(self) -> None:
        self.closed = True


class MemoryDevice:
    """Takes every program but a few that say by their bytes how they fail.

    `arrive` plays a packet to the CPU port, `gate` holds programs back while they are staged, `flip` plays a
    port that goes up or down, and with `refusing` the ports take no program.
    """

    FAILURES: ClassVar = {
        b"unsupported": UnsupportedError("extern frobnicate (hmux.p4:7) is not supported"),
        b"broken": ValueError("p4_device_config is no BMv2 JSON"),
        b"stops": StopIteration(),
        b"bug": KeyError("field"),
        b"full": TableFullError("table t holds entries of 64 different masks"),
        b"kernel": OSError("the verifier refuses"),
    }

    def __init__(self) -> None:
        self.packet_in_fd, self._wake = os.pipe()
        self.port_events_fd, self._flipped = os.pipe()
        for fd in (self.packet_in_fd, self.port_events_fd):
            os.set_blocking(fd, False)
        self.gate = threading.Event()
        self.gate.set()
        self.staging = threading.Event()
        self.refusing = False
        self._frames: list[bytes] = []
        self.sent: list[bytes] = []
        self.staged: list[MemoryPipeline] = []
        self.pipeline: MemoryPipeline | None = None
        self.ports = {1: True, 2: True, 510: True}

    def stage(self, config: bytes, info: p4i.P4Info) -> MemoryPipeline:
        self.staging.set()
        assert self.gate.wait(20)
        if config in self.FAILURES:
            raise self.FAILURES[config]
        self.staged.append(MemoryPipeline(info))
        return self.staged[-1]

    def activate(self, pipeline: MemoryPipeline) -> None:
        if self.refusing:
            raise OSError("a port refuses")
        assert not pipeline.closed
        if self.pipeline is not None and self.pipeline is not pipeline:
            self.pipeline.close()
        self.pipeline = pipeline

    @property
    def open(self) -> list[MemoryPipeline]:
        """The pipelines that nobody has closed yet."""
        return [pipeline for pipeline in self.staged if not pipeline.closed]

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def arrive(self, frame: bytes) -> None:
        self._frames.append(frame)
        os.write(self._wake, b"x")

    def receive(self) -> bytes | None:
        if not self._frames:
            return None
        os.read(self.packet_in_fd, 1)
        return self._frames.pop(0)

    def flip(self, port: int, *, up: bool) -> None:
        self.ports = {**self.ports, port: up}
        os.write(self._flipped, b"x")

    def port_states(self) -> Mapping[int, bool]:
        with suppress(BlockingIOError):
            os.read(self.port_events_fd, 4096)
        return self.ports

    def close(self) -> None:
        for fd in (self.packet_in_fd, self._wake, self.port_events_fd, self._flipped):
            os.close(fd)
