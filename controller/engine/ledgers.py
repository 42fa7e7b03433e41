"""Chooses the ledger that suits a network; only those of large networks load numba."""

from __future__ import annotations

from controller.engine.demand import Demands
from controller.engine.dense import DenseLedger
from controller.engine.ledger import Ledger
from controller.engine.topology import Topology

SMALL = 2_000_000
"""Most entries (switches x switches x links) of a dense table of shares: 16 MB."""


def ledger_for(topology: Topology, demands: Demands | None = None) -> Ledger:
    """Return an empty ledger for a network, fit for these demands (None: with all hosts on ToRs)."""
    if topology.switch_count**2 * topology.link_count <= SMALL:
        return DenseLedger(topology)
    if topology.shape is not None and (demands is None or _on_tors(topology.shape.tor_count, demands)):
        from controller.engine.fattree import FatTreeLedger

        return FatTreeLedger(topology)
    from controller.engine.graph import GraphLedger

    return GraphLedger(topology)


def _on_tors(tors: int, demands: Demands) -> bool:
    """Whether all sources and DIPs are on ToRs."""
    return bool(demands.source_switch.max(initial=0) < tors and demands.dip_switch.max(initial=0) < tors)


__all__ = ["ledger_for"]
