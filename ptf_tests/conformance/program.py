"""What is compared: a P4 program, states of its tables, frames, and what a target makes of them."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from finsy import P4CounterEntry, P4CounterUnit, P4DirectCounterEntry, P4Schema
from finsy.proto import p4r

ROOT = Path(__file__).resolve().parents[2]

MIN_FRAME = 14
"""An Ethernet header. Neither a veth nor XDP delivers less, so no shorter frame is ever compared."""

MAX_FRAME = 3000
"""What fits an XDP buffer of one page, beside its headroom, bytes."""

Frame = tuple[int, bytes]
"""A port and the bytes that come in or leave by it; the CPU port's start with a controller header."""

Counters = dict[str, tuple[int, int]]
"""Packets and bytes of every counter that is not zero, by its entry or cell; 0 for a unit not counted."""


@dataclass(frozen=True, slots=True)
class State:
    """What the tables of a program hold, as updates for an empty switch."""

    name: str
    updates: tuple[p4r.Update, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A frame that comes in, and what it is about."""

    kind: str
    port: int
    frame: bytes


@dataclass(frozen=True)
class Program:
    """A compiled P4 program with its states and its traffic."""

    name: str
    device_config: Path
    p4info: Path
    states: Callable[[P4Schema], Iterable[State]]
    """The table states worth recording."""
    random_state: Callable[[P4Schema, random.Random], State]
    """A state that nobody thought of, for the fuzzer."""
    cases: Callable[[State, random.Random], Iterator[Case]]
    """Endless traffic for a state, all of it drawn from the generator."""
    systematic: Callable[[State], Iterable[Case]] = lambda _: ()
    """Cases worth recording that chance might miss."""

    @functools.cached_property
    def schema(self) -> P4Schema:
        """The program as finsy takes it."""
        return P4Schema(self.p4info, self.device_config)

    def digest(self) -> str:
        """Return the SHA-256 of what p4c compiled, except for where in the source it stands."""
        config = json.dumps(_without_sources(json.loads(self.device_config.read_bytes())), sort_keys=True)
        return hashlib.sha256(config.encode() + b"\0" + self.p4info.read_bytes()).hexdigest()


class Target(Protocol):
    """A switch that runs one program. A context manager; its tables are empty at the start."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, updates: Sequence[p4r.Update]) -> None:
        """Write to the tables by P4Runtime."""

    def send(self, frames: Sequence[Frame]) -> list[list[Frame]]:
        """Send frames one after the other, and return for each what left because of it."""

    def counters(self) -> Counters:
        """Return every counter that is not zero."""


def encode(schema: P4Schema, entries: Iterable[Any]) -> tuple[p4r.Update, ...]:
    """Return finsy entities as P4Runtime updates: inserts, and modifications of what is always there."""
    updates = []
    for entry in entries:
        entity = entry.encode(schema)
        always = entity.table_entry.is_default_action or entity.HasField("meter_entry")
        kind = p4r.Update.MODIFY if always else p4r.Update.INSERT
        updates.append(p4r.Update(type=kind, entity=entity))
    return tuple(updates)


def counter_queries(schema: P4Schema) -> list[P4CounterEntry | P4DirectCounterEntry]:
    """Return what to read for every counter of a program."""
    direct = [P4DirectCounterEntry(counter.alias) for counter in schema.direct_counters]
    return [*direct, *(P4CounterEntry(counter.alias) for counter in schema.counters)]


def name_counters(schema: P4Schema, entities: Iterable[P4CounterEntry | P4DirectCounterEntry]) -> Counters:
    """Return the counters that are not zero, from entities that were read."""
    named: Counters = {}
    for entity in entities:
        if isinstance(entity, P4CounterEntry):
            name, unit = f"{entity.counter_id}[{entity.index}]", schema.counters[entity.counter_id].unit
        else:
            assert entity.table_entry is not None
            name = f"{entity.table_id}[{entity.table_entry.match_str(schema)}]"
            if entity.table_entry.priority:
                name += f" priority {entity.table_entry.priority}"
            unit = schema.direct_counters[entity.counter_id].unit
        packets = entity.packet_count if unit != P4CounterUnit.BYTES else 0
        octets = entity.byte_count if unit != P4CounterUnit.PACKETS else 0
        if packets or octets:
            named[name] = (packets, octets)
    return named


def _without_sources(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            k: _without_sources(v) for k, v in part.items() if k not in ("source_info", "__meta__", "program")
        }
    if isinstance(part, list):
        return [_without_sources(item) for item in part]
    return part
