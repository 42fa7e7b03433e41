"""Flows on probation (`struct novices` of bpf/maps.h) as they move into a map of another size."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from duet_p4.bpf import Map
from duet_p4.flow_hash import Flow

GROUP = 4
"""Flows of a group."""

_HEAD = struct.Struct("=16x4I")
_FLOW = struct.Struct("!4s4sHHB3x8s")
_INDEX = struct.Struct("=I")


class _Novice(NamedTuple):
    """A flow as it lies in its group, with what it leads to, and when it was seen."""

    seen: int
    packed: bytes


def group_of(flow: Flow, groups: int, key: int) -> int:
    """Return the number of a flow's group, as `novices_of` of smux.bpf.c does."""
    return (flow.crc ^ key ^ flow.words >> 7) & groups - 1


def move(old: Map, new: Map, key: int) -> None:
    """Put every flow into the group that it has where there are more or fewer groups, the newest ones first.

    `key` is that of the flow hashes.
    """
    groups: defaultdict[int, list[_Novice]] = defaultdict(list)
    for flow, novice in _novices(old):
        groups[group_of(flow, new.max_entries, key)].append(novice)
    new.update_batch(
        (_INDEX.pack(number), _packed(sorted(found)[-GROUP:])) for number, found in groups.items()
    )


def _novices(old: Map) -> Iterator[tuple[Flow, _Novice]]:
    values = old.read(0, old.max_entries)
    for first in range(0, len(values), old.value_size):
        times = _HEAD.unpack_from(values, first)
        for place, seen in enumerate(times):
            if seen:
                at = first + _HEAD.size + place * _FLOW.size
                source, vip, port, vip_port, protocol, _ = _FLOW.unpack_from(values, at)
                flow = Flow(IPv4Address(source), IPv4Address(vip), protocol, port, vip_port)
                yield flow, _Novice(seen, values[at : at + _FLOW.size])


def _packed(novices: list[_Novice]) -> bytes:
    times = [novice.seen for novice in novices]
    flows = b"".join(novice.packed for novice in novices)
    return _HEAD.pack(*times, *[0] * (GROUP - len(times))) + flows.ljust(GROUP * _FLOW.size, b"\0")
