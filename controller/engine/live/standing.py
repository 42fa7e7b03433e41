"""A ledger of what stands where, that follows the records: to place one VIP costs what that VIP touches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

import numpy as np

from controller.engine import FEASIBLE, SMUX, TIE, Flow, Topology
from controller.engine.demand import turn_of
from controller.engine.ledgers import ledger_for
from controller.engine.live.rows import Reach, Row
from controller.engine.topology import Ints

Home = int
"""A switch, or `SMUX`."""


class Standing:
    """What every VIP and TIP loads where it stands, and a ledger of it all."""

    def __init__(self, topology: Topology, closed: Ints) -> None:
        """Start with nothing that stands. `closed` switches get nothing new."""
        self.topology = topology
        self.ledger = ledger_for(topology)
        self.routes = topology.routes
        """/32 routes there may be."""
        self._closed = closed
        self._placed: dict[IPv4Address, list[tuple[Flow, int]]] = {}
        self._used = 0

    def put(self, row: Row, sources: Mapping[str, float]) -> None:
        """Have a VIP and its TIPs stand where their record says, whether they fit or not."""
        self.remove(row.record.address)
        home = self._living(row.record.home)
        self._stand(row, sources, home, {tip.address: self._tip_home(row, tip) for tip in row.tips})

    def remove(self, address: IPv4Address) -> None:
        """Take a VIP and its TIPs away, if they stand anywhere."""
        for flow, switch in self._placed.pop(address, ()):
            self.ledger.remove(flow, switch)
            self._used -= 1

    def place(self, row: Row, sources: Mapping[str, float]) -> dict[IPv4Address, str | None]:
        """Find homes for a VIP and its TIPs, while all others stay; they stand there from then on.

        What has a living home stays. The TIPs that stay fill their tables before the VIP is placed, and
        it goes to none of their switches. A VIP that fits nowhere, or one of whose homeless TIPs does, is
        left to the SMuxes with those.
        """
        self.remove(row.record.address)
        home = self._living(row.record.home)
        tips = {tip.address: self._tip_home(row, tip) for tip in row.tips}
        tips = {address: SMUX if at == home else at for address, at in tips.items()}
        if home == SMUX or SMUX in tips.values():
            home, tips = self._find(row, sources, home, tips)
        self._stand(row, sources, home, tips)
        found = {row.record.address: home, **tips}
        return {address: self._name(switch) for address, switch in found.items()}

    def _find(
        self, row: Row, sources: Mapping[str, float], home: Home, tips: dict[IPv4Address, Home]
    ) -> tuple[Home, dict[IPv4Address, Home]]:
        """Return homes for those that have none; the ledger is as before afterwards."""
        needed = (home == SMUX) + sum(at == SMUX for at in tips.values())
        staying = (home != SMUX) + sum(at != SMUX for at in tips.values())
        if self._used + staying + needed > self.routes:
            return home, tips
        flow = row.flow(sources, self.topology)
        traffic = flow.internet + float(flow.sent.sum())
        trial: list[tuple[Flow, int]] = []
        found = dict(tips)

        def hold(load: Flow, switch: int) -> None:
            trial.append((load, switch))
            self.ledger.place(load, switch)

        try:
            staying_tips = [tip for tip in row.tips if tips[tip.address] != SMUX]
            for tip in staying_tips:
                hold(row.tip_flow(tip, traffic, None), tips[tip.address])
            at = home if home != SMUX else self._best(flow, row.record.address, set(tips.values()))
            if at == SMUX:
                return home, tips
            for load, switch in trial:
                self.ledger.remove(load, switch)
            trial.clear()
            hold(flow, at)
            for tip in staying_tips:
                hold(row.tip_flow(tip, traffic, at), tips[tip.address])
            for tip in row.tips:
                if tips[tip.address] == SMUX:
                    load = row.tip_flow(tip, traffic, at)
                    found[tip.address] = self._best(load, tip.address, {at})
                    if found[tip.address] == SMUX:
                        return home, tips
                    hold(load, found[tip.address])
        finally:
            for load, switch in trial:
                self.ledger.remove(load, switch)
        return at, found

    def _best(self, flow: Flow, address: IPv4Address, avoid: Iterable[int]) -> Home:
        """Return the switch of the least cost that may get something new; `SMUX` where none is feasible."""
        barred = np.concatenate((self._closed, [at for at in avoid if at != SMUX])).astype(np.int32)
        costs = self.ledger.costs(flow, barred)
        least = costs.least()
        if not least <= FEASIBLE:
            return SMUX
        return costs.first(least + TIE, turn_of(str(address), self.topology.switch_count))

    def _stand(
        self, row: Row, sources: Mapping[str, float], home: Home, tips: Mapping[IPv4Address, Home]
    ) -> None:
        flow = row.flow(sources, self.topology)
        traffic = flow.internet + float(flow.sent.sum())
        origin = home if home != SMUX else None
        standing = [(flow, home)] if home != SMUX else []
        for tip in row.tips:
            if (at := tips[tip.address]) != SMUX:
                standing.append((row.tip_flow(tip, traffic, origin), at))
        for load, switch in standing:
            self.ledger.place(load, switch)
        self._placed[row.record.address] = standing
        self._used += len(standing)

    def _tip_home(self, row: Row, tip: Reach) -> Home:
        return self._living(row.record.carried()[tip.address].home)

    def _living(self, name: str | None) -> Home:
        """Return the switch of that name; `SMUX` where it is unknown or cut off."""
        at = self.topology.index.get(name, SMUX) if name else SMUX
        return SMUX if at in self.topology.down else at

    def _name(self, switch: Home) -> str | None:
        return None if switch == SMUX else self.topology.names[switch]


__all__ = ["Standing"]
