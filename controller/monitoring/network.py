"""The network as its devices tell of it: how large their tables are, which links are down."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from controller.inventory import Inventory
from controller.reach import Reach
from duet_p4.api.mux import MuxStatus
from duet_p4.model import Model

_ROUTES = "route"
_NOISE = 64


class NetworkState(Model):
    """What changed of the network since its inventory was written.

    `version` grows with every change. `tables` has how many entries each table of a switch holds, by the
    table's short name; `routes` how many of its route table the underlay takes, VIPs and TIPs not counted.
    `links_down` are links without a BGP session, as those of their ends say that answer. `lost` switches
    carry nothing; `closed` ones cannot be asked, keep what they have, and get nothing new. `draining` SMuxes
    ask their neighbours to prefer any other.
    """

    version: int = 0
    inventory: int = Field(default=0, description="grows when the inventory changes")
    tables: dict[str, dict[str, int]] = Field(default_factory=dict)
    routes: dict[str, int] = Field(default_factory=dict)
    links_down: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()


class NetworkView:
    """Puts together what switches and SMuxes say of themselves."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.statuses: dict[str, MuxStatus] = {}
        self._reach: Mapping[str, Reach] = {}
        self._once_up: set[tuple[str, str]] = set()
        self.state = NetworkState()

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory."""
        self._inventory = inventory
        names = set(self._switches())
        state = self.state
        self.state = state.model_copy(
            update={
                "version": state.version + 1,
                "inventory": state.inventory + 1,
                "tables": {name: sizes for name, sizes in state.tables.items() if name in names},
                "routes": {name: used for name, used in state.routes.items() if name in names},
            }
        )

    def links_lost(self) -> tuple[tuple[str, str], ...]:
        """Return the links that are down and were seen to be up: one that never was has not gone down."""
        return tuple(ends for ends in self.state.links_down if ends in self._once_up)

    def peers(self, name: str) -> frozenset[str] | None:
        """Return with whom a mux has BGP sessions, as it last said; None where it never did."""
        status = self.statuses.get(name)
        return frozenset(s.name for s in status.sessions if s.established) if status else None

    def update(self, statuses: Mapping[str, MuxStatus], reach: Mapping[str, Reach]) -> None:
        """Take in what muxes say; one that is not in `statuses` did not answer."""
        self.statuses = dict(statuses)
        self._reach = reach
        known = self.state
        switches = {name: statuses[name] for name in self._switches() if name in statuses}
        now = NetworkState(
            version=known.version,
            inventory=known.inventory,
            tables=known.tables
            | {name: {t: use.size for t, use in status.tables.items()} for name, status in switches.items()},
            routes=known.routes | self._underlay(switches),
            links_down=tuple(sorted(self._links_down())),
            lost=tuple(sorted(n for n in self._switches() if reach.get(n) is Reach.LOST)),
            closed=tuple(
                sorted(n for n in self._switches() if reach.get(n) in (Reach.UNREACHABLE, Reach.UNWELL))
            ),
            draining=tuple(sorted(name for name, status in statuses.items() if status.draining)),
        )
        if now != self.state:
            self.state = now.model_copy(update={"version": self.state.version + 1})

    def _underlay(self, switches: Mapping[str, MuxStatus]) -> dict[str, int]:
        """Return how many routes of each switch are none of a VIP or TIP, where that changed by much.

        While VIPs come and go, the count is a little off; that is no news.
        """
        announced = {name: status.announced for name, status in switches.items()}
        found = {}
        for name, status in switches.items():
            if (use := status.tables.get(_ROUTES)) is None:
                continue
            others = sum(announced.values()) - announced[name]
            routes, before = max(0, use.used - others), self.state.routes.get(name)
            if before is None or abs(routes - before) > _NOISE:
                found[name] = routes
        return found

    def _switches(self) -> list[str]:
        return [switch.name for switch in self._inventory.switches]

    def _links_down(self) -> list[tuple[str, str]]:
        """Return links of which an end that answers says that there is no session, and none that there is."""
        found = []
        for link in self._inventory.links:
            first, second = link.ends
            told = [second in peers for peers in (self.peers(first),) if peers is not None]
            told += [first in peers for peers in (self.peers(second),) if peers is not None]
            if told and all(told):
                self._once_up.add(link.ends)
            elif told:
                found.append((first, second))
        return found
