"""How fast a switch takes entries by P4Runtime, from one client in Writes one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from finsy.proto import p4r

from duet_p4.bench.switches import BATCH, Switch, deletes, inserts
from duet_p4.bench.tables import DIPS_PER_VIP, SLOTS_PER_VIP, Fill
from duet_p4.hmux import entries

MEASURED_VIP = IPv4Address("10.64.0.1")
MEASURED_DIP = IPv4Address("100.64.0.1")


@dataclass(slots=True)
class Programming:
    """How fast one target takes entries, and how much memory its process has more for each.

    `per_s` and `bytes_per_entry` are by table, of inserts until it is full.
    """

    target: str
    vip_ms: list[float] = field(default_factory=list)
    per_s: dict[str, float] = field(default_factory=dict)
    bytes_per_entry: dict[str, float] = field(default_factory=dict)
    swaps_ms: list[float] = field(default_factory=list)

    @property
    def vips_per_s(self) -> float:
        """VIPs per second, into tables that have all else."""
        return self.per_s["host"]

    @property
    def vip_ms_median(self) -> float:
        """Milliseconds from the first Write of a VIP with two DIPs to the last answer; see `one_vip`."""
        return statistics.median(self.vip_ms)

    @property
    def swap_ms(self) -> float:
        """Milliseconds until every route of a full table leads elsewhere."""
        return statistics.median(self.swaps_ms)


def program(target: str, switch: Switch, vip_runs: int) -> Programming:
    """Fill a new switch, lead all its routes elsewhere, and time single VIPs when it is almost empty again.

    In the end it is full.
    """
    found = Programming(target)
    fill = Fill.full()
    base = inserts(fill.base())
    switch.write(base)
    tables = {
        "route": inserts(fill.routes_to(1)),
        "tunneling": inserts(fill.tunnels_to_dips()),
        "ecmp": inserts(fill.slots_of_tunnels()),
        "host": inserts(fill.hosts()),
    }
    for name, requests in tables.items():
        number, before = sum(len(request.updates) for request in requests), switch.resident()
        found.per_s[name] = number / _seconds(switch, requests)
        found.bytes_per_entry[name] = (switch.resident() - before) / number
    ways = [_modifies(inserts(fill.routes_to(2))), _modifies(tables["route"])]
    found.swaps_ms = [1000 * _seconds(switch, requests) for requests in (*ways, *ways)]
    switch.push()
    switch.write(inserts([*Fill.one().base(), *Fill.one().routes_to(1)]))
    added, removed = one_vip(target)
    for _ in range(vip_runs):
        found.vip_ms.append(1000 * _seconds(switch, added))
        switch.write(removed)
    switch.push()
    for requests in (base, *tables.values()):
        switch.write(requests)
    return found


def one_vip(target: str) -> tuple[list[p4r.WriteRequest], list[p4r.WriteRequest]]:
    """Return the Writes that add a VIP with two DIPs as the switch agent does, and those that remove it.

    They are one that is carried out whole where the target takes back what it began; on BMv2 the tunnels
    and slots are one, and the row that leads there, which must not be there without them, is another.
    """
    tunnels = [entries.tunnel(n, MEASURED_DIP + n) for n in range(DIPS_PER_VIP)]
    slots = [entries.slot(n, n % DIPS_PER_VIP) for n in range(SLOTS_PER_VIP)]
    rows = [*tunnels, *slots, entries.vip(MEASURED_VIP, 0, SLOTS_PER_VIP)]
    takes_back = target == "xdp"
    added = inserts(rows, BATCH if takes_back else len(rows) - 1)
    if takes_back:
        added[0].atomicity = p4r.WriteRequest.ROLLBACK_ON_ERROR
    removed = [request for rows in (tunnels, slots, rows[-1:]) for request in inserts(rows)]
    return added, deletes(removed)


def _modifies(requests: Iterable[p4r.WriteRequest]) -> list[p4r.WriteRequest]:
    """Return Writes that modify what others insert."""
    modified = []
    for request in requests:
        copy = p4r.WriteRequest()
        copy.CopyFrom(request)
        for update in copy.updates:
            update.type = p4r.Update.MODIFY
        modified.append(copy)
    return modified


def _seconds(switch: Switch, requests: Iterable[p4r.WriteRequest]) -> float:
    began = time.perf_counter()
    switch.write(requests)
    return time.perf_counter() - began
