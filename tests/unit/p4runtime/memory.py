"""A data plane in memory: enough of one to test the protocol's logic without a kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import ClassVar

from finsy.proto import p4i

from duet_p4.xdp_switch import fit
from duet_p4.xdp_switch.compiler import compile_program, ir
from duet_p4.xdp_switch.dataplane import (
    Call,
    Count,
    EntryKey,
    InitialEntry,
    MatchValues,
    MeterRates,
    NoRoomError,
    Replica,
    TargetAction,
    UnsupportedError,
)

FEATURES = Path(__file__).parent / "features.json"


class Meters:
    """Meters by index."""

    def __init__(self) -> None:
        self.rates: dict[int, MeterRates] = {}

    def configure(self, index: int, rates: MeterRates | None) -> None:
        if rates is not None and max(rates.cburst, rates.pburst) * 10**9 >> 64:
            raise ValueError("a burst is out of range")
        self.rates.pop(index, None)
        if rates is not None:
            self.rates[index] = rates

    def read(self, index: int) -> MeterRates | None:
        return self.rates.get(index)


class Copies:
    """Multicast groups or clone sessions: replicas and truncation by number."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[list[Replica], int]] = {}

    def put(self, number: int, replicas: Sequence[Replica], truncate: int = 0) -> None:
        if len(replicas) > 64:
            raise NoRoomError("there is room for 64 replicas")
        self.held[number] = (list(replicas), truncate)

    def remove(self, number: int) -> None:
        del self.held[number]


class Digests:
    """Samples that a test plays by `say`."""

    def __init__(self) -> None:
        self.fd, self._wake = os.pipe()
        os.set_blocking(self.fd, False)
        self._samples: list[tuple[str, tuple[int, ...]]] = []

    def say(self, name: str, *values: int) -> None:
        self._samples.append((name, values))
        os.write(self._wake, b"x")

    def poll(self) -> list[tuple[str, tuple[int, ...]]]:
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)
        samples, self._samples = self._samples, []
        return samples

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._wake)


class Members:
    """A value set."""

    def __init__(self) -> None:
        self.members: list[tuple[int, ...]] = []

    def replace(self, members: Sequence[tuple[int, ...]]) -> None:
        self.members = list(members)


class MemoryPipeline:
    """Keeps what it is told in dictionaries, and refuses what the contract says it need not take."""

    def __init__(self, info: p4i.P4Info, program: ir.Program) -> None:
        self.program = program
        self.widths = fit.check(info, program)
        self.optional = {
            table.preamble.name: [f.match_type == p4i.MatchField.OPTIONAL for f in table.match_fields]
            for table in info.tables
        }
        self.const = {table.preamble.name for table in info.tables if table.is_const_table}
        self.sizes = {table.preamble.name: table.size for table in info.tables}
        self.tables: dict[str, dict[tuple[MatchValues, int], TargetAction]] = {n: {} for n in self.sizes}
        self.direct: dict[tuple[str, MatchValues, int], Count] = {}
        self.direct_meters: dict[tuple[str, MatchValues, int], MeterRates] = {}
        self.idle: dict[tuple[str, MatchValues, int], float] = {}
        self.defaults: dict[str, TargetAction] = {}
        self.counters = {c.preamble.name: [(0, 0)] * c.size for c in info.counters}
        self.registers = {r.preamble.name: [0] * r.size for r in info.registers}
        self.members: dict[str, dict[int, Call]] = {p.preamble.name: {} for p in info.action_profiles}
        self.groups: dict[str, dict[int, list[int]]] = {p.preamble.name: {} for p in info.action_profiles}
        self.multicast, self.clones, self.digests = Copies(), Copies(), Digests()
        self.meters = {m.preamble.name: Meters() for m in info.meters}
        self.value_sets = {v.preamble.name: Members() for v in info.value_sets}
        self.detours: dict[int, Mapping[str, Mapping[tuple[MatchValues, int], TargetAction | None]]] = {}
        self.closed = False
        for table in self.tables:
            for entry in self.initial_entries(table):
                self.tables[table][entry.key, entry.priority] = entry.action

    def detour(
        self, port: int, changes: Mapping[str, Mapping[tuple[MatchValues, int], TargetAction | None]]
    ) -> None:
        self.detours[port] = changes

    def rearm(self) -> None:
        pass

    def ports_up(self, ports: Collection[int]) -> None:
        pass

    def packet_layout(self, header: str) -> Sequence[tuple[str, int]]:
        return self.widths.packets[header]

    def key_widths(self, table: str) -> Sequence[int]:
        return self.widths.keys[table]

    def parameter_widths(self, action: str) -> Sequence[int]:
        return self.widths.parameters[action]

    def initial_entries(self, table: str) -> Sequence[InitialEntry]:
        stated = self.program.tables().get(table)
        if stated is None:
            return []
        entries = []
        for entry in stated.entries:
            key = [
                (value[0] if value[1] else None) if optional and isinstance(value, tuple) else value
                for value, optional in zip(entry.key, self.optional[table], strict=True)
            ]
            priority = entry.priority if stated.kind in ("ternary", "range") else 0
            call = Call(self.program.actions[entry.action_id].name, entry.arguments)
            entries.append(InitialEntry(tuple(key), priority, call, table in self.const))
        return entries

    def insert(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        entries = self.tables[table]
        assert (key, priority) not in entries
        if len(entries) >= self.sizes[table]:
            raise NoRoomError(f"table {table} is full ({self.sizes[table]} entries)")
        entries[key, priority] = action

    def modify(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        assert (key, priority) in self.tables[table]
        self.tables[table][key, priority] = action

    def delete(self, table: str, key: MatchValues, priority: int) -> None:
        del self.tables[table][key, priority]
        for kept in (self.direct, self.direct_meters, self.idle):
            kept.pop((table, key, priority), None)

    def insert_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        assert len(set(keys)) == len(keys)
        if len(self.tables[table]) + len(keys) > self.sizes[table]:
            raise NoRoomError(f"table {table} is full ({self.sizes[table]} entries)")
        for key, action in zip(keys, actions, strict=True):
            self.insert(table, *key, action)

    def modify_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        assert len(set(keys)) == len(keys)
        for key, action in zip(keys, actions, strict=True):
            self.modify(table, *key, action)

    def delete_all(self, table: str, keys: Sequence[EntryKey]) -> None:
        for key in keys:
            self.delete(table, *key)

    def default_action(self, table: str) -> Call | None:
        stated = self.program.tables().get(table)
        if stated is None or stated.default_action is None:
            return None
        return Call(self.program.actions[stated.default_action].name, stated.default_arguments)

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

    def add_direct(self, table: str, counts: Mapping[tuple[MatchValues, int], Count]) -> None:
        for (key, priority), count in counts.items():
            ((packets, size),) = self.read_direct(table, [(key, priority)])
            self.write_direct(table, key, priority, (packets + count[0], size + count[1]))

    def write_direct_meter(
        self, table: str, key: MatchValues, priority: int, rates: MeterRates | None
    ) -> None:
        assert (key, priority) in self.tables[table]
        self.direct_meters.pop((table, key, priority), None)
        if rates is not None:
            self.direct_meters[table, key, priority] = rates

    def read_direct_meter(self, table: str, key: MatchValues, priority: int) -> MeterRates | None:
        return self.direct_meters.get((table, key, priority))

    def idle_seconds(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[float]:
        return [self.idle.get((table, *key), 0.0) for key in keys]

    def read_counter(self, counter: str, first: int, number: int) -> list[Count]:
        return self.counters[counter][first : first + number]

    def write_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        assert first + len(counts) <= len(self.counters[counter])
        self.counters[counter][first : first + len(counts)] = counts

    def add_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        held = self.counters[counter][first : first + len(counts)]
        sums = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(held, counts, strict=True)]
        self.write_counter(counter, first, sums)

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

    def close(self) -> None:
        assert not self.closed
        self.digests.close()
        self.closed = True


@cache
def program_of(config: bytes) -> ir.Program:
    """Read a program; what is no JSON stands for features.p4."""
    if not config.startswith(b"{"):
        config = FEATURES.read_bytes()
    return compile_program(config, cpus=1).program


class MemoryDevice:
    """Takes every program but a few that say by their bytes how they fail.

    `arrive` plays a packet to the CPU port, `gate` holds programs back while they are staged, `flip` plays a
    port that goes up or down, and with `refusing` the ports take no program. `on_change` is called with the
    pipeline before, when another one has taken over.
    """

    FAILURES: ClassVar = {
        b"unsupported": UnsupportedError("extern frobnicate (hmux.p4:7) is not supported"),
        b"broken": ValueError("p4_device_config is no BMv2 JSON"),
        b"stops": StopIteration(),
        b"bug": KeyError("field"),
        b"full": NoRoomError("table t holds entries of 64 different masks"),
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
        self.on_change: Callable[[MemoryPipeline | None], None] = lambda before: None
        self._frames: list[bytes] = []
        self.sent: list[bytes] = []
        self.staged: list[MemoryPipeline] = []
        self.pipeline: MemoryPipeline | None = None
        self.cpu_port = 510
        self.ports = {1: True, 2: True, 510: True}

    def stage(self, config: bytes, info: p4i.P4Info) -> MemoryPipeline:
        self.staging.set()
        assert self.gate.wait(20)
        if config in self.FAILURES:
            raise self.FAILURES[config]
        self.staged.append(MemoryPipeline(info, program_of(config)))
        return self.staged[-1]

    def activate(self, pipeline: MemoryPipeline, settle: Callable[[], None] | None = None) -> None:
        if self.refusing:
            raise OSError("a port refuses")
        assert not pipeline.closed
        before, self.pipeline = self.pipeline, pipeline
        self.on_change(before)
        if settle is not None:
            settle()
        if before is not None and before is not pipeline:
            before.close()

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
