"""What follows from who answers. A switch is lost on positive evidence only: a neighbour that answers, and
none that has a BGP session with it. That nobody answers is no evidence: the management network may be what
failed. And when more than a share of all devices cannot be reached at once, monitoring suspects itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.inventory import Inventory
from controller.reach import Reach

LEAST_SUSPICIOUS = 3
"""So few devices that cannot be reached are never suspicious, however few there are in all."""


def neighbours_of(inventory: Inventory) -> dict[str, frozenset[str]]:
    """Return, for each switch, the switches and SMuxes that have a BGP session with it."""
    found: dict[str, set[str]] = {switch.name: set() for switch in inventory.switches}
    for link in inventory.links:
        first, second = link.ends
        found[first].add(second)
        found[second].add(first)
    for smux in inventory.smuxes:
        found[smux.switch].add(smux.name)
    return {name: frozenset(others) for name, others in found.items()}


def suspicion(reach: Mapping[str, Reach], share: float) -> str:
    """Say why monitoring suspects itself: too many devices that once answered do not; else nothing."""
    known = [state for state in reach.values() if state is not Reach.UNKNOWN]
    silent = sum(state in (Reach.UNREACHABLE, Reach.LOST) for state in known)
    if silent > LEAST_SUSPICIOUS and silent > share * len(known):
        return f"{silent} of {len(known)} devices cannot be reached at once, more than {share:.0%}"
    return ""


def is_lost(name: str, sessions: Mapping[str, Collection[str] | None]) -> bool:
    """Whether a switch carries nothing, as its neighbours tell.

    `sessions` has, for each neighbour, with whom it has a session; None for one that does not answer.
    """
    told = [peers for peers in sessions.values() if peers is not None]
    return bool(told) and all(name not in peers for peers in told)
