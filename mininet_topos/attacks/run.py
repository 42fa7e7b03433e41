"""Runs attacks, one after the other, on a testbed that is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass

import networkx as nx

from mininet_topos.attacks import control, floods, packets, routing
from mininet_topos.attacks.base import Attack, Ground
from mininet_topos.testbed.folder import Folder, TestbedError

ATTACKS: tuple[Attack, ...] = (
    *control.book.attacks,
    *routing.book.attacks,
    *packets.book.attacks,
    *floods.book.attacks,
)
"""Every attack."""


@dataclass(frozen=True)
class Tried:
    """What came of an attack: whether it succeeded, and what was seen. One that could not be tried failed."""

    attack: Attack
    succeeded: bool
    seen: str
    failed: bool
    seconds: float


def run(
    folder: Folder,
    graph: nx.Graph,
    say: Callable[[str], None],
    *,
    small: bool,
    only: Iterable[str] = (),
) -> list[Tried]:
    """Try every attack, or those named; a `small` run leaves the slow ones out and floods for less long."""
    wanted = frozenset(only)
    unknown = wanted - {attack.name for attack in ATTACKS}
    if unknown:
        raise TestbedError(f"there is no attack {', '.join(sorted(unknown))}")
    found = []
    with closing(Ground(folder, graph, small=small)) as ground:
        for attack in ATTACKS:
            if attack.name in wanted or (not wanted and not (small and attack.slow)):
                tried = _try(attack, ground)
                found.append(tried)
                fate = "COULD NOT BE TRIED" if tried.failed else "SUCCEEDED" if tried.succeeded else "stopped"
                say(f"{attack.name}: {fate}: {tried.seen}")
    return found


def _try(attack: Attack, ground: Ground) -> Tried:
    begun = time.monotonic()
    try:
        outcome = attack.run(ground)
    except Exception as error:  # an attack that fails for a reason of its own proves nothing
        return Tried(attack, False, f"{type(error).__name__}: {error}", True, time.monotonic() - begun)
    return Tried(attack, outcome.succeeded, outcome.seen, False, time.monotonic() - begun)
