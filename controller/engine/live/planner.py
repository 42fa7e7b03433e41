"""The engine's memory between questions: the network, what every VIP asks of it, and what stands where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np

from controller.engine import (
    SMUX,
    Assignment,
    Explanation,
    Strategy,
    assign,
)
from controller.engine.live.network import Outages, route_budget, topology_of
from controller.engine.live.rows import Columns, Row, Traffic, row_of
from controller.engine.live.standing import Standing
from controller.engine.topology import Ints
from controller.inventory import Inventory
from controller.records import VipRecord

BY_HAND = "an operator put it there"


class Planner:
    """Answers where VIPs go. It knows what it was told last: the network, the traffic, the VIPs' records.

    Not thread-safe: one question at a time.
    """

    def __init__(self, inventory: Inventory, outages: Outages | None = None) -> None:
        self.problems: dict[IPv4Address, str] = {}
        """VIPs that cannot be modelled, and why: they stay where they are, in no assignment."""
        self._records: dict[IPv4Address, VipRecord] = {}
        self._rows: dict[IPv4Address, Row] = {}
        self._traffic: Traffic = {}
        self._columns: Columns | None = None
        self._standing: Standing | None = None
        self._last: Assignment | None = None
        self._last_held: dict[str, str | None] = {}
        self.set_network(inventory, outages)

    def set_network(self, inventory: Inventory, outages: Outages | None = None) -> None:
        """Take in the network, and what is down. Raises ValueError where the inventory makes no network."""
        now = outages or Outages()
        topology = topology_of(inventory, now)
        self._inventory, self._outages, self.topology = inventory, now, topology
        self._closed = np.array([topology.index[n] for n in now.closed if n in topology.index], np.int32)
        self._standing = self._columns = None
        self._take_in(list(self._records.values()))

    def set_traffic(self, traffic: Traffic) -> None:
        """Take in the measured traffic."""
        self._traffic = traffic
        self._standing = None

    def follow(
        self, changed: Iterable[VipRecord], removed: Iterable[IPv4Address] = (), *, whole: bool = False
    ) -> None:
        """Take in what changed of the VIPs; with `whole`, `changed` is all there are."""
        changed = list(changed)
        if whole:
            now = {record.address for record in changed}
            removed = [address for address in self._records if address not in now]
        for address in removed:
            self._drop(address)
        self._take_in(record for record in changed if self._records.get(record.address) != record)

    def compute(self, strategy: Strategy) -> Assignment:
        """Assign every VIP. Those held by hand stay, and so does what is on a switch that is closed."""
        if self._columns is None:
            self._columns = Columns(list(self._rows.values()))
        rows = self._columns.rows
        demands = self._columns.demands(self._traffic, self.topology)
        homes = self._homes(rows)
        held = [number for number, row in enumerate(rows) if row.record.held]
        staying = np.isin(homes, self._closed)
        staying[held] = True
        network = self.topology
        if network.routes != (routes := self._routes()):
            network = replace(network, routes=routes)
        self._last = assign(network, demands, strategy, homes, closed=self._closed, staying=staying)
        self._last_held = {str(rows[number].record.address): rows[number].record.home for number in held}
        return self._last

    def place(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Say where one VIP and its TIPs go while all else stays, and take it that they go there.

        Raises ValueError where the VIP cannot be modelled.
        """
        row = self._row(record)
        standing = self.stand()
        return standing.place(row, self._traffic.get(record.address, {}))

    def placement(self) -> list[tuple[IPv4Address, str | None]]:
        """Return the last assignment. A VIP that is held has its home, lost or full though that be."""
        if self._last is None:
            return []
        placement = self._last.placement() | self._last_held
        taken = {
            str(tip.address): self._last_held[str(row.record.address)]
            for row in self._rows.values()
            if str(row.record.address) in self._last_held
            for tip in row.tips
        }
        return [
            (IPv4Address(name), None if switch == taken.get(name) else switch)
            for name, switch in placement.items()
        ]

    def explain(self, address: IPv4Address) -> Explanation:
        """Say why the last assignment put a VIP or TIP where it did; KeyError where it does not name it."""
        if self._last is None:
            raise KeyError("no assignment was computed yet")
        why = self._last.explain(str(address))
        if why.name in self._last_held:
            return replace(why, switch=self._last_held[why.name], reason=BY_HAND)
        return why

    def _take_in(self, records: Iterable[VipRecord]) -> None:
        for record in records:
            self._drop(record.address)
            self._records[record.address] = record
            try:
                row = self._rows[record.address] = self._row(record)
            except ValueError as error:
                self.problems[record.address] = str(error)
                continue
            if self._standing is not None:
                self._standing.put(row, self._traffic.get(record.address, {}))

    def _drop(self, address: IPv4Address) -> None:
        self._records.pop(address, None)
        self.problems.pop(address, None)
        self._columns = None
        self._rows.pop(address, None)
        if self._standing is not None:
            self._standing.remove(address)

    def _row(self, record: VipRecord) -> Row:
        return row_of(record, self.topology, self._locate)

    def _locate(self, address: IPv4Address) -> str:
        """Return the switch of a DIP. Where no servers are listed nobody knows: it counts as the first."""
        server = self._inventory.server_at(address)
        if server is not None:
            return server.switch
        if self._inventory.servers:
            raise ValueError(f"no server has the address of DIP {address}")
        return self._inventory.switches[0].name

    def stand(self) -> Standing:
        """Return the ledger of what stands; built anew after the network or the traffic changed."""
        if self._standing is None:
            self._standing = Standing(self.topology, self._closed)
            for address, row in self._rows.items():
                self._standing.put(row, self._traffic.get(address, {}))
        self._standing.routes = self._routes()
        return self._standing

    def _routes(self) -> int:
        return route_budget(self._outages)

    def _homes(self, rows: Sequence[Row]) -> Ints:
        index = self.topology.index
        homes = [row.home for row in rows]
        homes += [row.record.carried()[tip.address].home for row in rows for tip in row.tips]
        return np.array([index.get(home, SMUX) if home else SMUX for home in homes], np.int32)


__all__ = ["BY_HAND", "Planner"]
