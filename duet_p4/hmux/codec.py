"""Rows to P4Runtime updates, and P4Runtime entities to rows.

A VIP of 512 DIPs is over 4,000 updates. finsy encodes one in about 50 us; here each kind of row is
encoded once through `entries`, and copies of that get their numbers filled in, in a tenth of the time.
So `entries` stays the only place that knows the P4 program's names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from finsy import P4Schema, P4TableEntry
from finsy.proto import p4r

from duet_p4.hmux import entries
from duet_p4.hmux.plan import Op, Update
from duet_p4.hmux.rows import (
    AclRow,
    BackstopRow,
    HostRow,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    PinnedRow,
    RouteRow,
    Row,
    SlotRow,
    TunnelRow,
)
from duet_p4.model import Protocol

_PROTOCOLS = {protocol.number: protocol for protocol in Protocol}
_OPS = {
    Op.INSERT: p4r.Update.INSERT,
    Op.MODIFY: p4r.Update.MODIFY,
    Op.DELETE: p4r.Update.DELETE,
}


@dataclass(frozen=True, eq=False)
class _Kind:
    """A kind of row: an example of its entry, its numbers (match, action), and the way back."""

    example: P4TableEntry
    numbers: Callable[[Any], tuple[Sequence[int], Sequence[int]]]
    row: Callable[[Sequence[int], Sequence[int]], Row]


_ANY = IPv4Address(1)
_NET = IPv4Network((1, 32))
_KINDS: dict[str, _Kind] = {
    "vip": _Kind(
        entries.vip(_ANY, 1, 1, has_ports=True, has_pinned_flows=True),
        lambda r: ((int(r.address),), (r.first, r.count, r.has_ports, r.has_pinned)),
        lambda m, a: HostRow(IPv4Address(m[0]), a[0], a[1], False, bool(a[2]), bool(a[3])),
    ),
    "tip": _Kind(
        entries.tip(_ANY, 1, 1),
        lambda r: ((int(r.address),), (r.first, r.count)),
        lambda m, a: HostRow(IPv4Address(m[0]), a[0], a[1], tip=True),
    ),
    "acl": _Kind(
        entries.port_group(_ANY, Protocol.TCP, 1, 1, 1),
        lambda r: ((int(r.address), r.protocol.number, r.port), (r.first, r.count, r.has_pinned)),
        lambda m, a: AclRow(IPv4Address(m[0]), _PROTOCOLS[m[1]], m[2], a[0], a[1], bool(a[2])),
    ),
    "ecmp": _Kind(
        entries.slot(1, 1),
        lambda r: ((r.slot,), (r.tunnel,)),
        lambda m, a: SlotRow(m[0], a[0]),
    ),
    "tunneling": _Kind(
        entries.tunnel(1, _ANY),
        lambda r: ((r.tunnel,), (int(r.encap),)),
        lambda m, a: TunnelRow(m[0], IPv4Address(a[0])),
    ),
    "pinned": _Kind(
        entries.pinned_flow(_ANY, _ANY, 1, 1, 1, 1),
        lambda r: (
            (int(r.source), int(r.destination), r.protocol, r.source_port, r.destination_port),
            (r.tunnel,),
        ),
        lambda m, a: PinnedRow(IPv4Address(m[0]), IPv4Address(m[1]), m[2], m[3], m[4], a[0]),
    ),
    "route": _Kind(
        entries.route(_NET, 1),
        lambda r: ((int(r.prefix.network_address),), (r.group,)),
        lambda m, a: RouteRow(IPv4Network((m[0], m[1])), a[0]),
    ),
    "route_up": _Kind(
        entries.route_up_to_mux(_NET, 1),
        lambda r: ((int(r.prefix.network_address),), (r.group,)),
        lambda m, a: RouteRow(IPv4Network((m[0], m[1])), a[0], up=True),
    ),
    "backstop": _Kind(
        entries.backstop(1, 1),
        lambda r: ((r.port,), (r.group,)),
        lambda m, a: BackstopRow(m[0], a[0]),
    ),
    "punt": _Kind(
        entries.route_to_cpu(_NET),
        lambda r: ((int(r.prefix.network_address),), ()),
        lambda m, a: RouteRow(IPv4Network((m[0], m[1])), RouteRow.PUNT),
    ),
    "drop": _Kind(
        entries.route_to_nowhere(_NET),
        lambda r: ((int(r.prefix.network_address),), ()),
        lambda m, a: RouteRow(IPv4Network((m[0], m[1])), RouteRow.DROP),
    ),
    "nexthop_group": _Kind(
        entries.nexthop_group(1, 1, 1),
        lambda r: ((r.group,), (r.first, r.count)),
        lambda m, a: NextHopGroupRow(m[0], a[0], a[1]),
    ),
    "nexthop_slot": _Kind(
        entries.nexthop_slot(1, 1),
        lambda r: ((r.slot,), (r.nexthop,)),
        lambda m, a: NextHopSlotRow(m[0], a[0]),
    ),
    "nexthop": _Kind(
        entries.nexthop(1, 1, 1, 1, 1500),
        lambda r: ((r.nexthop,), (r.port, r.source, r.destination, r.mtu)),
        lambda m, a: NextHopRow(m[0], a[0], a[1], a[2], a[3]),
    ),
}
_ROUTES = (_KINDS["route"], _KINDS["route_up"], _KINDS["punt"], _KINDS["drop"])


class Codec:
    """Translates rows for one pipeline."""

    def __init__(self, schema: P4Schema) -> None:
        self._templates = {name: p4r.Update(entity=k.example.encode(schema)) for name, k in _KINDS.items()}
        self._kinds = {}
        for name, template in self._templates.items():
            entry = template.entity.table_entry
            self._kinds[entry.table_id, entry.action.action.action_id] = _KINDS[name]

    @property
    def table_ids(self) -> list[int]:
        """The P4 tables that rows live in."""
        return sorted({table_id for table_id, _ in self._kinds})

    def update(self, update: Update[Any]) -> p4r.Update:
        """Return the P4Runtime update that writes a row."""
        row = update.row
        name = _name(row)
        message = p4r.Update()
        message.CopyFrom(self._templates[name])
        message.type = _OPS[update.op]
        entry = message.entity.table_entry
        match, action = _KINDS[name].numbers(row)
        if isinstance(row, RouteRow):
            if row.prefix.prefixlen:
                entry.match[0].lpm.value = _bytes(match[0])
                entry.match[0].lpm.prefix_len = row.prefix.prefixlen
            else:
                del entry.match[:]  # P4Runtime leaves a prefix of length 0 out.
        else:
            for field, number in zip(entry.match, match, strict=True):
                field.exact.value = _bytes(number)
        for param, number in zip(entry.action.action.params, action, strict=True):
            param.value = _bytes(number)
        return message

    def row(self, entry: p4r.TableEntry) -> Row | None:
        """Return the row that an entry of the switch is; None for what no row says, as others may write."""
        try:
            return self._row(entry)
        except (KeyError, IndexError, ValueError):
            return None

    def _row(self, entry: p4r.TableEntry) -> Row | None:
        kind = self._kinds.get((entry.table_id, entry.action.action.action_id))
        if kind is None:
            return None
        if kind in _ROUTES:
            match = [0, 0]
            if entry.match:
                lpm = entry.match[0].lpm
                match = [int.from_bytes(lpm.value), lpm.prefix_len]
        else:
            by_id = sorted(entry.match, key=lambda field: field.field_id)
            match = [int.from_bytes(field.exact.value) for field in by_id]
        params = sorted(entry.action.action.params, key=lambda param: param.param_id)
        return kind.row(match, [int.from_bytes(param.value) for param in params])


def _name(row: Row) -> str:
    if isinstance(row, HostRow):
        return "tip" if row.tip else "vip"
    if isinstance(row, RouteRow):
        if row.group < 0:
            return "punt" if row.group == RouteRow.PUNT else "drop"
        return "route_up" if row.up else "route"
    return row.table


def _bytes(number: int) -> bytes:
    """Return a number as P4Runtime has it: big-endian, as short as can be."""
    return int(number).to_bytes((int(number).bit_length() + 7) // 8 or 1)
