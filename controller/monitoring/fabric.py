"""Which switches and SMuxes carry nothing, as the switches around them see.

That a neighbour's port has no carrier, or that nothing sent there comes back, is positive evidence, and told
at once: nothing can go that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controller.inventory import Inventory
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
        """Return what switches tell of that answer, and none of them can send to."""
        told: dict[str, list[bool]] = {}
        for switch, neighbours in self._told.items():
            if answers(switch):
                for name, up in neighbours.items():
                    told.setdefault(name, []).append(up)
        return {name for name, ups in told.items() if not any(ups)}
