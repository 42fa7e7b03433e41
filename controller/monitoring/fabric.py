"""Which switches and SMuxes carry nothing, as the switches around them see.

That a neighbour's port has no carrier, or that nothing sent there comes back, is positive evidence, and told
at once: nothing can go that way. That a neighbour has told nothing yet says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controller.inventory import Inventory
from controller.monitoring.evidence import neighbours_of
from duet_p4.api.ports import NeighbourPort


class Fabric:
    """What switches said last of their ports to each other, and to SMuxes."""

    def __init__(self, inventory: Inventory) -> None:
        self._told: dict[str, dict[str, bool]] = {}
        self.adopt(inventory)

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory."""
        switches = {switch.name for switch in inventory.switches}
        self._names = switches | {smux.name for smux in inventory.smuxes}
        self._links = [link.ends for link in inventory.links]
        self._near: dict[str, set[str]] = {name: set() for name in self._names}
        for switch, others in neighbours_of(inventory).items():
            for other in others:
                self._near[other].add(switch)
        self._told = {
            switch: {name: alive for name, alive in told.items() if name in self._names}
            for switch, told in self._told.items()
            if switch in switches
        }

    def note(self, switch: str, neighbours: Iterable[NeighbourPort]) -> None:
        """Take in what a switch says. What it says of names that are not in the inventory means nothing."""
        self._told[switch] = {n.neighbour: n.alive for n in neighbours if n.neighbour in self._names}

    def links_down(self, answers: Callable[[str], bool]) -> set[tuple[str, str]]:
        """Return the links of which an end that answers says that they are dead."""
        return {
            (first, second)
            for first, second in self._links
            for end, other in ((first, second), (second, first))
            if answers(end) and not self._told.get(end, {}).get(other, True)
        }

    def dead(self, answers: Callable[[str], bool]) -> set[str]:
        """Return what none of the switches next to it can send to, as all of them say that answer.

        One whose agent is alive and whose switch is dead can send to nobody: so one alone proves nothing
        while others have not been heard.
        """

        def can_send(switch: str, name: str) -> bool:
            return self._told.get(switch, {}).get(name, True)

        near = {name: [s for s in switches if answers(s)] for name, switches in self._near.items()}
        return {n for n, switches in near.items() if switches and not any(can_send(s, n) for s in switches)}
