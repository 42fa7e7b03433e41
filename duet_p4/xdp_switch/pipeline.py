"""A compiled program in the kernel: its tables, counters, registers and action profiles."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from finsy.proto import p4i

from duet_p4 import bpf
from duet_p4.bpf.attach import Mode
from duet_p4.flows.samples import odds
from duet_p4.xdp_switch import fit
from duet_p4.xdp_switch.compiler import Compiled, compile_program
from duet_p4.xdp_switch.compiler.profiles import Members
from duet_p4.xdp_switch.compiler.program import REPLAYED, SPREAD
from duet_p4.xdp_switch.counters import Counters, rows
from duet_p4.xdp_switch.dataplane import (
    Call,
    Count,
    EntryKey,
    InitialEntry,
    MatchValues,
    MeterRates,
    NoRoomError,
    TargetAction,
    UnsupportedError,
)
from duet_p4.xdp_switch.detours import Detours
from duet_p4.xdp_switch.digests import Digests
from duet_p4.xdp_switch.drop_reasons import COUNTED, QUEUE
from duet_p4.xdp_switch.inner_ports import InnerPorts
from duet_p4.xdp_switch.matching import Hit
from duet_p4.xdp_switch.meters import MeterArray
from duet_p4.xdp_switch.queues import DEPTH, Queues, Rate
from duet_p4.xdp_switch.replication import Clones, Multicast, Replicas
from duet_p4.xdp_switch.tables import Table, UnreachedTable
from duet_p4.xdp_switch.tracer import Tracer
from duet_p4.xdp_switch.value_sets import ValueSet

_log = logging.getLogger(__name__)

INCLUDE = Path(__file__).parent / "include"
SAMPLED = {"SAMPLED": "1"}
"""What makes the variant of a program that samples frames."""

LOOPBACK_IFINDEX = 1
"""What test runs come in by."""


class XdpPipeline:
    """A loaded program; see `dataplane.Pipeline` for what each method promises."""

    def __init__(
        self,
        config: bytes,
        info: p4i.P4Info,
        shared: dict[str, bpf.Map],
        *,
        mode: Mode = "native",
        replays: bool = False,
        padding: int = 0,
        rates: Mapping[int, Rate] | None = None,
        depth: int = DEPTH,
        sampling: int = 0,
    ) -> None:
        """Compile, load and fill in what the program states; raises as `dataplane.Device.stage` does.

        Packets to ports that have one of the `rates` wait, at most `depth` for each. One that `replays` is
        for `replay` only, and sends nothing. With `padding`, so many bytes behind it, a frame may then have
        fewer than the 14 that the kernel wants. One frame in `sampling` that leaves is a sample; 0 is none.
        """
        self._sampled = SAMPLED if sampling else {}
        self._rodata = {"flow_odds": odds(sampling)} if sampling else {}
        if replays:
            self._rodata["replays"] = b"\1"
        self._config = config
        self._padding = padding
        self._info = info
        self._rates = rates or {}
        self.compiled = self._compile()
        self._replays = replays
        self._fitting = fit.check(info, self.compiled.program)
        self._shared = shared
        self._detours: Detours | None = None
        self._prepared: dict[int, Mapping[str, Mapping[EntryKey, TargetAction | None]]] = {}
        """The detours that stand, by port; while `_disarmed`, the kernel does not know them."""
        self._disarmed = False
        self._detoured: set[str] = set()
        """Tables that one of them may change."""
        self._counters: dict[str, Counters] = {}
        self._object = bpf.Object(build(self.compiled, self._sampled))
        try:
            self._object.load(share=shared, rodata=self._rodata)
            self._samples = bpf.RingBuffer(self._object.map("frame_samples")) if sampling else None
            self.program = self._object.program("pipeline")
            self._make_objects(info)
            self._profiles = {
                name: Members(
                    self.compiled.program.profiles()[name],
                    self.compiled.names("profile", name),
                    actions,
                    self._object,
                )
                for name, actions in self.compiled.profiles.items()
            }
            self._tables: dict[str, Table | UnreachedTable] = {
                name: Table(layout, self._object) for name, layout in self.compiled.tables.items()
            }
            for message in info.tables:
                if message.preamble.name not in self._tables:
                    self._tables[message.preamble.name] = UnreachedTable(message.preamble.name, message.size)
            self._initial = {name: self._initial_entries(name, info) for name in self._tables}
            for name, entries in self._initial.items():
                for entry in entries:
                    try:
                        self.insert(name, entry.key, entry.priority, entry.action)
                    except NoRoomError as error:
                        raise UnsupportedError(f"the const entries of {name}: {error}") from error
            self.inner: InnerPorts | None = None
            self._queues: Queues | None = None
            if self.compiled.copies and not replays:
                self.inner = InnerPorts(self._object, mode, queues=self.compiled.queues)
                if self.inner.waiting is not None:
                    self._queues = Queues(self._object, self.inner.waiting, self._rates, depth)
        except BaseException:
            self._object.close()
            raise

    def _make_objects(self, info: p4i.P4Info) -> None:
        """Make what the control plane drives beside tables, counters, registers and profiles."""
        compiled, loaded, names = self.compiled, self._object, self.compiled.names
        replicas = Replicas(loaded if compiled.copies else None)
        self.multicast = Multicast(
            replicas, loaded.memory("multicast_groups") if compiled.multicasts else None
        )
        self.clones = Clones(
            replicas,
            loaded.memory("clone_sessions") if compiled.clones else None,
            loaded.memory("clone_truncations") if compiled.clones else None,
        )
        self.meters: Mapping[str, MeterArray] = {
            meter.name: MeterArray(
                loaded.map(f"meter_{names('meter', meter.name)}"), meter.name, max(meter.size, 1)
            )
            for meter in compiled.program.meters.values()
            if meter.table is None
        }
        self.digests = Digests(self._fitting.digests, loaded if compiled.digests else None)
        self.value_sets: Mapping[str, ValueSet] = {
            name: ValueSet(
                name,
                value_set.size,
                loaded.map(f"value_set_{names('value set', name)}") if name in compiled.value_sets else None,
            )
            for name, value_set in compiled.program.value_sets.items()
        }

    def _compile(self, traced: bool = False) -> Compiled:
        return translate(
            self._config,
            self._info,
            rows(),
            padding=self._padding,
            traced=traced,
            queues=bool(self._rates),
        )

    def instrument(self) -> Tracer:
        """Return the instrumented variant of this program, which runs on its tables; not yet in place of it.

        Raises UnsupportedError where the program is one that cannot be traced.
        """
        compiled = self._compile(traced=True)
        built = build(compiled, self._sampled)
        return Tracer(compiled, built, self._object, self._rodata, self.hit)

    def hit(self, table: str, handle: int, values: Sequence[int]) -> Hit | None:
        """Return the entry of a table that a packet with these values hits; see `_Table.hit`."""
        return self._tables[table].hit(handle, values)

    def samples(self) -> list[bytes]:
        """Return the samples of frames since the last call, each a `struct frame_sample`."""
        return self._samples.poll() if self._samples is not None else []

    @property
    def loaded(self) -> bpf.Object:
        """The loaded object: its programs and maps."""
        return self._object

    def key_widths(self, table: str) -> Sequence[int]:
        """Return the widths of a table's match fields."""
        return self._fitting.keys[table]

    def parameter_widths(self, action: str) -> Sequence[int]:
        """Return the widths of an action's parameters."""
        return self._fitting.parameters[action]

    def packet_layout(self, header: str) -> Sequence[tuple[str, int]]:
        """Return the fields of a controller header."""
        return self._fitting.packets[header]

    def initial_entries(self, table: str) -> Sequence[InitialEntry]:
        """Return the entries that the program states."""
        return self._initial[table]

    def insert(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Add an entry."""
        self.insert_all(table, [(key, priority)], [action])

    def modify(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Give an entry another action."""
        self.modify_all(table, [(key, priority)], [action])

    def delete(self, table: str, key: MatchValues, priority: int) -> None:
        """Remove an entry."""
        self.delete_all(table, [(key, priority)])

    def insert_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Add entries."""
        self._disarm(table, keys)
        self._tables[table].insert(keys, actions)

    def modify_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Give entries other actions."""
        self._disarm(table, keys)
        self._tables[table].modify(keys, actions)

    def delete_all(self, table: str, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        self._disarm(table, keys)
        self._tables[table].delete(keys)

    def detour(self, port: int, changes: Mapping[str, Mapping[EntryKey, TargetAction | None]]) -> None:
        """Have entries changed, or taken away where None, once a port can send nothing."""
        if self._detours is None:
            try:
                self._detours = Detours(self._object, self._shared["ingress_ports"])
            except (OSError, bpf.BpfError) as error:
                raise UnsupportedError(
                    f"detours need a kernel that traces xdp_devmap_xmit: {error}"
                ) from error
        self._detours.prepare(port, self._words(changes))
        self._prepared[port] = changes
        self._detoured.update(changes)

    def ports_up(self, ports: Collection[int]) -> None:
        """Undo the detours of ports that can send again, where nothing was written since."""
        if self._detours is not None:
            self._detours.undo(self._detours.taken() & set(ports))

    def rearm(self) -> None:
        """Have detours in place that stand, after entries have changed that they leave alone."""
        if not self._disarmed or self._detours is None:
            return
        self._disarmed = False
        for port, changes in list(self._prepared.items()):
            try:
                self._detours.prepare(port, self._words(changes))
            except ValueError as error:
                _log.info("port %d has no detour any more: %s", port, error)
                del self._prepared[port]
        self._detoured = {table for changes in self._prepared.values() for table in changes}

    def _words(self, changes: Mapping[str, Mapping[EntryKey, TargetAction | None]]) -> dict[int, int]:
        words: dict[int, int] = {}
        for table, entries in changes.items():
            words |= self._tables[table].words(entries)
        return words

    def _disarm(self, table: str, keys: Sequence[EntryKey]) -> None:
        """Have no detour in place while a table changes; those that change these very entries are over.

        So are those that were taken: what the tables are to be now is up to who changes them.
        """
        if table not in self._detoured or self._detours is None:
            return
        over = {
            port
            for port, changes in self._prepared.items()
            if table in changes and not changes[table].keys().isdisjoint(keys)
        }
        if not self._disarmed:
            over |= self._detours.disarm()
            self._disarmed = True
        for port in over:
            self._prepared.pop(port, None)

    def default_action(self, table: str) -> Call | None:
        """Return the default action that the program states."""
        stated = self.compiled.program.tables().get(table)
        if stated is None or stated.default_action is None:
            return None
        return Call(self.compiled.program.actions[stated.default_action].name, stated.default_arguments)

    def set_default(self, table: str, action: TargetAction | None) -> None:
        """Set the default action; None goes back to the program's."""
        self._tables[table].set_default(action if action is not None else self.default_action(table))

    def read_direct(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[Count]:
        """Return the direct counters of entries."""
        return self._tables[table].read_counters(list(keys))

    def write_direct(self, table: str, key: MatchValues, priority: int, count: Count) -> None:
        """Set the direct counter of an entry."""
        self._tables[table].write_counter((key, priority), count)

    def add_direct(self, table: str, counts: Mapping[EntryKey, Count]) -> None:
        """Have direct counters of entries count so much more."""
        self._tables[table].add_counters(counts)

    def write_direct_meter(
        self, table: str, key: MatchValues, priority: int, rates: MeterRates | None
    ) -> None:
        """Set the rates of an entry's direct meter; None takes them away."""
        self._tables[table].write_meter((key, priority), rates)

    def read_direct_meter(self, table: str, key: MatchValues, priority: int) -> MeterRates | None:
        """Return the rates of an entry's direct meter, None where it has none."""
        return self._tables[table].read_meter((key, priority))

    def idle_seconds(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[float]:
        """Return how long ago entries were last hit, or inserted, in seconds."""
        return self._tables[table].idle_seconds(list(keys))

    def read_counter(self, counter: str, first: int, number: int) -> list[Count]:
        """Return cells of a counter array."""
        return self._counter(counter).read(first, number)

    def write_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        """Set cells of a counter array."""
        self._counter(counter).write(first, counts)

    def add_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        """Have cells of a counter array from `first` on count so much more."""
        self._counter(counter).add(first, counts)

    def read_register(self, register: str, first: int, number: int) -> list[int]:
        """Return cells of a register array."""
        return [int(value) for value in self._register(register)[first : first + number]]

    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        """Set cells of a register array."""
        self._register(register)[first : first + len(values)] = values

    def set_member(self, profile: str, handle: int, action: Call) -> None:
        """Add or change a member."""
        self._profiles[profile].set_member(handle, action)

    def delete_member(self, profile: str, handle: int) -> None:
        """Remove a member."""
        self._profiles[profile].delete_member(handle)

    def set_group(self, profile: str, handle: int, members: Sequence[int]) -> None:
        """Add or change a group."""
        self._profiles[profile].set_group(handle, members)

    def delete_group(self, profile: str, handle: int) -> None:
        """Remove a group."""
        self._profiles[profile].delete_group(handle)

    def replay(
        self, frame: bytes, ingress_port: int, tracer: Tracer | None = None
    ) -> list[tuple[int, bytes]]:
        """Run one frame through the tables as they are and return what would leave, as (port, frame).

        For tests, on a pipeline that `replays`: nothing is sent, but counters and registers change as for a
        packet from outside. With a `tracer`, it is the instrumented variant that runs.
        """
        if not self._replays:
            raise ValueError("this pipeline sends its packets: make one that replays")
        loopback = LOOPBACK_IFINDEX.to_bytes(4, "little")
        self._shared["ingress_ports"].update(loopback, (ingress_port + 1).to_bytes(4, "little"))
        left: list[tuple[int, bytes]] = []
        pending = deque([("pipeline", frame + bytes(self._padding))])
        while pending:
            name, data = pending.popleft()
            program = self._object.program(name) if tracer is None else tracer.program
            result = program.test_run(data)
            if result.retval >= SPREAD:
                pending.append(("again", result.data_out))
                if result.retval > SPREAD:
                    pending.append(("next", result.data_out))
            elif result.retval >= REPLAYED:
                sent = result.data_out[: len(result.data_out) - self._padding]
                left.append((result.retval - REPLAYED, sent))
        return left

    def drops(self) -> dict[str, int]:
        """Return how many packets did not leave, by reason."""
        cells = self._object.map("drops").lookup_range(0, len(COUNTED))
        counts = {
            name: sum(int.from_bytes(v, "little") for v in cell)
            for name, cell in zip(COUNTED, cells, strict=True)
        }
        return counts | {QUEUE: self._queues.dropped if self._queues is not None else 0}

    def close(self) -> None:
        """Free the program, its tables and its state."""
        if self._detours is not None:
            self._detours.close()
        if self._queues is not None:
            self._queues.close()
        if self.inner is not None:
            self.inner.close()
        self.digests.close()
        if self._samples is not None:
            self._samples.close()
            self._samples = None
        self._object.close()

    def _counter(self, name: str) -> Counters:
        if name not in self._counters:
            memory = self._object.memory(f"counter_{self.compiled.names('counter', name)}")
            self._counters[name] = Counters(memory)
        return self._counters[name]

    def _register(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        width = self.compiled.program.registers[name].width
        memory = self._object.memory(f"register_{self.compiled.names('register', name)}")
        return np.frombuffer(memory, dtype=f"u{next(w for w in (8, 16, 32, 64) if width <= w) // 8}")

    def _initial_entries(self, name: str, info: p4i.P4Info) -> list[InitialEntry]:
        table = self.compiled.program.tables().get(name)
        if table is None:
            return []
        message = next((t for t in info.tables if t.preamble.name == name), None)
        needs_priority = table.kind in ("ternary", "range")
        entries = []
        for entry in table.entries:
            key = list(entry.key)
            for number, field in enumerate(message.match_fields if message is not None else ()):
                value = key[number]
                if field.match_type == p4i.MatchField.OPTIONAL and isinstance(value, tuple):
                    key[number] = value[0] if value[1] else None
            action = Call(self.compiled.program.actions[entry.action_id].name, entry.arguments)
            is_const = message is None or message.is_const_table
            entries.append(
                InitialEntry(tuple(key), entry.priority if needs_priority else 0, action, is_const)
            )
        return entries


def _default_only(info: p4i.P4Info) -> dict[str, frozenset[str]]:
    """Return by table the actions that none of its entries may run."""
    names = {action.preamble.id: action.preamble.name for action in info.actions}
    return {
        table.preamble.name: frozenset(
            names[reference.id]
            for reference in table.action_refs
            if reference.scope == p4i.ActionRef.DEFAULT_ONLY and reference.id in names
        )
        for table in info.tables
    }


def translate(
    config: bytes,
    info: p4i.P4Info,
    cpus: int,
    *,
    padding: int = 0,
    traced: bool = False,
    queues: bool = False,
) -> Compiled:
    """Compile a program to C as its P4Info has it; raises as `compile_program` does."""
    sizes = {table.preamble.name: table.size for table in info.tables}
    return compile_program(config, cpus, padding, sizes, _default_only(info), traced, queues)


Make = Callable[[Path, Sequence[Path], Mapping[str, str]], Path]


def build(
    compiled: Compiled, defines: Mapping[str, str] | None = None, make: Make = bpf.compile_object
) -> Path:
    """Compile the C of a program to an object file, cached by content."""
    with TemporaryDirectory(prefix="duet-p4-") as folder:
        source = Path(folder) / "pipeline.c"
        source.write_text(compiled.source)
        return make(source, [INCLUDE], defines or {})
