"""What a data plane offers to whoever drives it: the contract between the P4Runtime server and XDP.

The caller has checked every request against the P4Info: names exist, values fit their widths, keys
are canonical (no value bits under a mask's zeros), entries to modify or delete are there. The data
plane remembers no more than it needs, and raises only what the caller cannot know: NoRoomError, and
BpfError or OSError where the kernel fails.

Names are those of the P4Info. A key is a tuple with one element per match field, in P4Info order:

| match kind | element | matches everything |
| --- | --- | --- |
| exact | value | - |
| lpm | (value, prefix length) | (0, 0) |
| ternary | (value, mask) | (0, 0) |
| range | (low, high) | (0, 2**width - 1) |
| optional | value or None | None |

Every update is atomic for the packets: one sees the entry as it was or as it is. Those given together are
not, among each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from finsy.proto import p4i

FieldValue = int | tuple[int, int] | None
MatchValues = tuple[FieldValue, ...]
EntryKey = tuple[MatchValues, int]
"""Match values and priority."""
Count = tuple[int, int]
"""Packets, bytes."""
Replica = tuple[int, int]
"""Egress port and instance (replica id) of a copy."""


class NoRoomError(Exception):
    """A table, or an action profile, has no room for another entry; the message names it and its size."""


class UnsupportedError(Exception):
    """A P4 program uses what this switch does not support; the message names it and its P4 source line."""


class Call(NamedTuple):
    """An action by name, with its arguments in the order of its parameters."""

    action: str
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MemberHandle:
    """A member of the table's action profile."""

    handle: int


@dataclass(frozen=True, slots=True)
class GroupHandle:
    """A group of the table's action selector."""

    handle: int


@dataclass(frozen=True, slots=True)
class MeterRates:
    """Committed and peak rate in units (bytes or packets) per second, each with the burst it allows."""

    cir: int
    cburst: int
    pir: int
    pburst: int


TargetAction = Call | MemberHandle | GroupHandle


@dataclass(frozen=True, slots=True)
class InitialEntry:
    """An entry that the P4 program itself states; priorities as in P4Runtime, the highest wins."""

    key: MatchValues
    priority: int
    action: Call
    is_const: bool


class MeterArray(Protocol):
    """Meters by index; one that is not configured is always green."""

    def configure(self, index: int, rates: MeterRates | None) -> None:
        """Set the rates of a meter, its buckets full; None takes them away. Raises ValueError."""

    def read(self, index: int) -> MeterRates | None:
        """Return the rates of a meter, None for one that is not configured."""


class Multicast(Protocol):
    """The multicast groups that packets may be copied to."""

    def put(self, group: int, replicas: Sequence[Replica]) -> None:
        """Set the members of a group, in order, atomically. Raises ValueError, NoRoomError."""

    def remove(self, group: int) -> None:
        """Forget a group; packets to it are dropped."""


class Clones(Protocol):
    """The clone sessions."""

    def put(self, session: int, replicas: Sequence[Replica], truncate: int = 0) -> None:
        """Set where clones of a session go, and how many bytes of them: 0 for all. Raises as `Multicast`."""

    def remove(self, session: int) -> None:
        """Forget a session; nothing is cloned to it."""


class Digests(Protocol):
    """What the program tells of packets; `fd` is readable where something waits, None without digests."""

    @property
    def fd(self) -> int | None:
        """See above."""

    def poll(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return what waits, as (digest, values of its fields in order); never blocks."""


class ValueSet(Protocol):
    """A set of keys that the parser asks."""

    def replace(self, members: Sequence[tuple[int, ...]]) -> None:
        """Make these the members. Raises NoRoomError."""


class Pipeline(Protocol):
    """A program with its tables and state: filled while it is staged, run once the device activates it."""

    def key_widths(self, table: str) -> Sequence[int]:
        """Return the widths in bits of a table's match fields, as the data plane has them."""

    def parameter_widths(self, action: str) -> Sequence[int]:
        """Return the widths in bits of an action's parameters, as the data plane has them."""

    def packet_layout(self, header: str) -> Sequence[tuple[str, int]]:
        """Return the fields, (name, bits), of the packet_in or packet_out header as it is on the wire."""

    @property
    def multicast(self) -> Multicast:
        """The multicast groups."""

    @property
    def clones(self) -> Clones:
        """The clone sessions."""

    @property
    def meters(self) -> Mapping[str, MeterArray]:
        """The indexed meters."""

    @property
    def digests(self) -> Digests:
        """The digests that wait."""

    @property
    def value_sets(self) -> Mapping[str, ValueSet]:
        """The parser's value sets."""

    def initial_entries(self, table: str) -> Sequence[InitialEntry]:
        """Return the entries that the program states; they are in the table from the start."""

    def insert(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Add an entry. Raises NoRoomError, with the table as it was."""

    def modify(self, table: str, key: MatchValues, priority: int, action: TargetAction) -> None:
        """Give an entry another action; its direct counter goes on counting."""

    def delete(self, table: str, key: MatchValues, priority: int) -> None:
        """Remove an entry, and its direct counter with it."""

    def insert_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Add entries of different keys, an action for each. Raises NoRoomError, with the table as it was."""

    def modify_all(self, table: str, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Give entries other actions, as `modify` does."""

    def delete_all(self, table: str, keys: Sequence[EntryKey]) -> None:
        """Remove entries, as `delete` does."""

    def detour(
        self, port: int, changes: Mapping[str, Mapping[tuple[MatchValues, int], TargetAction | None]]
    ) -> None:
        """Have entries of tables, by (key, priority), changed by itself once a port can send nothing.

        None takes an entry away. In the place of the port's detour before; any other change of one of these
        entries takes it away. Raises UnsupportedError where the kernel cannot, ValueError where a table or a
        port cannot.
        """

    def rearm(self) -> None:
        """Have detours in place again, after changes of other entries of their tables: until then none is."""

    def ports_up(self, ports: Collection[int]) -> None:
        """Take note of the ports that can send: detours of theirs that were taken are undone."""

    def default_action(self, table: str) -> Call | None:
        """Return the default action that the program states, or None for a table with an action profile."""

    def set_default(self, table: str, action: TargetAction | None) -> None:
        """Set the default action; None goes back to the program's."""

    def read_direct(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[Count]:
        """Return the direct counters of entries, given as (key, priority)."""

    def write_direct(self, table: str, key: MatchValues, priority: int, count: Count) -> None:
        """Set the direct counter of an entry."""

    def add_direct(self, table: str, counts: Mapping[tuple[MatchValues, int], Count]) -> None:
        """Have direct counters of entries, by (key, priority), count so much more."""

    def write_direct_meter(
        self, table: str, key: MatchValues, priority: int, rates: MeterRates | None
    ) -> None:
        """Set the rates of an entry's direct meter; a new entry has none, and is always green."""

    def read_direct_meter(self, table: str, key: MatchValues, priority: int) -> MeterRates | None:
        """Return the rates of an entry's direct meter."""

    def idle_seconds(self, table: str, keys: Iterable[tuple[MatchValues, int]]) -> list[float]:
        """Return how long ago entries were last hit, or inserted, in seconds."""

    def read_counter(self, counter: str, first: int, number: int) -> list[Count]:
        """Return `number` cells of a counter array from `first` on."""

    def write_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        """Set cells of a counter array from `first` on."""

    def add_counter(self, counter: str, first: int, counts: Sequence[Count]) -> None:
        """Have cells of a counter array from `first` on count so much more."""

    def read_register(self, register: str, first: int, number: int) -> list[int]:
        """Return `number` cells of a register array from `first` on."""

    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        """Set cells of a register array from `first` on."""

    def set_member(self, profile: str, handle: int, action: Call) -> None:
        """Add a member under a number of the caller's, or change what it does."""

    def delete_member(self, profile: str, handle: int) -> None:
        """Remove a member that no group and no entry refers to."""

    def set_group(self, profile: str, handle: int, members: Sequence[int]) -> None:
        """Add a group, or change its members.

        The n-th member of `members` takes the packets whose hash mod len(members) is n; one that is
        listed twice gets twice the share. An empty group misses, which drops nothing by itself.
        """

    def delete_group(self, profile: str, handle: int) -> None:
        """Remove a group that no entry refers to."""

    def close(self) -> None:
        """Free the program, its tables and its state."""


class Device(Protocol):
    """The ports of a switch, and the one pipeline that runs on them.

    `packet_in_fd` becomes readable when a packet was sent to the CPU port; None without a CPU port. It
    changes when `receive` has raised. `port_events_fd` becomes readable when a port came, went, or changed
    its state; None where ports never do.
    """

    @property
    def cpu_port(self) -> int | None:
        """The number of the CPU port, None without one."""

    @property
    def packet_in_fd(self) -> int | None:
        """See above."""

    @property
    def port_events_fd(self) -> int | None:
        """See above."""

    def stage(self, config: bytes, info: p4i.P4Info) -> Pipeline:
        """Compile a program, let the kernel verify it, and fill in what the program states.

        It runs on no port yet, and nothing else changes; `close` discards it. May run in a thread of its
        own, beside everything else. Raises UnsupportedError, ValueError where `config` is no BMv2 JSON or
        does not fit `info`, and BpfError or OSError where the kernel refuses.
        """

    def activate(self, pipeline: Pipeline, settle: Callable[[], None] | None = None) -> None:
        """Put a staged pipeline on all ports in place of the one before, which is then closed.

        `settle` is called in between, when packets meet the new one only and the one before can be read yet.
        Where a port refuses, BpfError or OSError, and all ports run the one before as they did. A port
        whose interface has gone refuses nothing: it gets the program when the interface is there again.
        """

    def send(self, frame: bytes) -> None:
        """Run a frame as one that came in by the CPU port.

        Raises ValueError where there is no such port, OSError where the frame does not fit.
        """

    def receive(self) -> bytes | None:
        """Return the next packet-in, its packet_in header in front, or None where there is none now.

        Raises OSError where the CPU port was broken; it has been made anew then, under a new descriptor.
        """

    def port_states(self) -> Mapping[int, bool]:
        """Take note of what happened to the ports; returns which are up."""

    def close(self) -> None:
        """Detach from every port and free everything."""
