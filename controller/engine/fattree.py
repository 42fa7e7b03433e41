"""The ledger of data-centre size: the symmetry of a FatTree, spelled out and compiled.

With K containers of T ToRs and A Aggs, and G Cores per Agg, all shortest paths of a flow towards, or
from, switch s have one form, so the links that a VIP loads are the same for every s, except those
of the container, Agg or Core that s belongs to:

    on a ToR   every source ToR sends 1/A of its traffic to each Agg, its container 1/(A G) to each Core;
               the DIPs' ToRs receive likewise. Only the links of the ToR's own container differ.
    on an Agg  the same within one plane (Agg a of every container): all of a ToR's traffic on its link
               to Agg a. The Internet's traffic from Cores of other planes crosses over at the ToRs of the
               container, 1/T each.
    on a Core  one link per container; crossing over happens at all K T ToRs.

So the cost of all candidates follows from the maxima over ToRs, Aggs, planes and containers, which are
kept while links fill up, and from the few links at the VIP's own sources and DIPs: O(switches) per VIP
instead of O(switches x links). `fattree_state` holds links and maxima, `fattree_costs` the formulas.
"""

from __future__ import annotations

import numpy as np

from controller.engine.choices import KeepOrChoose
from controller.engine.demand import Flow
from controller.engine.fattree_costs import candidate_costs, first_within, leg_costs
from controller.engine.fattree_loads import add_leg, add_placement
from controller.engine.fattree_run import compiled, place_rows
from controller.engine.fattree_state import refresh, state_size
from controller.engine.ledger import (
    FEASIBLE,
    NONE_BARRED,
    NOWHERE,
    TIE,
    Batch,
    Costs,
    KnownCosts,
    Ledger,
    Progress,
)
from controller.engine.paths import hops_to
from controller.engine.topology import Floats, Ints, Topology


class FatTreeLedger(Ledger):
    """For FatTrees whose VIPs have sources and DIPs on ToRs, and sources on the Internet.

    A TIP's traffic may come from any one switch.
    """

    def __init__(self, topology: Topology) -> None:
        """Raise ValueError where the topology is no FatTree."""
        super().__init__(topology)
        shape = topology.shape
        if shape is None:
            raise ValueError("the topology is no FatTree")
        self._tors = shape.tor_count
        self._shape = np.array([shape.containers, shape.tors, shape.aggs, shape.cores_per_agg], np.int64)
        self._usable = np.array([shape.tor_agg_bps, shape.agg_core_bps]) * (1 - topology.headroom)
        self._state = np.zeros(state_size(self._shape))
        self.links = self._state[: topology.link_count]
        self._scratch = np.zeros((2, shape.tor_count))

    def costs(self, flow: Flow, barred: Ints = NONE_BARRED) -> Costs:
        """Return what placing a flow on each switch would lead to."""
        costs = np.empty(self.topology.switch_count)
        least = candidate_costs(
            self._shape, self._usable, self._state, self._scratch, *flow,
            self.tables.entries, self.tables.per_entry, barred, costs,
        )  # fmt: skip
        if self._is_leg(flow):
            # A TIP behind an Agg or a Core. The two legs share no directed link, so the worse one counts.
            origin, sent = int(flow.sources[0]), float(flow.sent[0])
            least = leg_costs(self._shape, self._usable, self._state, origin, sent, costs)
        return _CompiledCosts(costs, least)

    def place(self, flow: Flow, switch: int) -> tuple[int, float]:
        """Put a flow on a switch; return the most utilized resource it touches, and its utilization."""
        return self._add(flow, switch, 1)

    def remove(self, flow: Flow, switch: int) -> None:
        """Take a flow off a switch again."""
        self._add(flow, switch, -1)
        refresh(self._shape, self._state)

    def place_rows(self, batch: Batch, so_far: Progress, rule: KeepOrChoose) -> Progress:
        """Place VIPs of a batch up to the next with TIPs."""
        how = compiled(rule)
        if how is None:
            return so_far
        at, left, worst = place_rows(
            self._shape, self._usable, self._state, self._scratch,
            self.tables.entries, self.tables.per_entry,
            *batch.flows, batch.order, batch.has_tips, batch.current, batch.staying, batch.turns,
            batch.traffic, batch.excluded, batch.closed, how, FEASIBLE, TIE,
            batch.switch, batch.cost, batch.bottleneck, batch.runner_up, batch.runner_up_cost, batch.carried,
            so_far.at, so_far.left, so_far.worst,
        )  # fmt: skip
        return Progress(at, left, worst)

    def _add(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        resource, busiest = add_placement(
            self._shape, self._usable, self._state, self._scratch, *flow,
            self.tables.entries, self.tables.per_entry, switch, sign,
        )  # fmt: skip
        if self._is_leg(flow):
            link, busy = self._load_leg(int(flow.sources[0]), float(flow.sent[0]), switch, sign)
            if busy > busiest:
                return link, busy
        return resource, busiest

    def _is_leg(self, flow: Flow) -> bool:
        """Whether the traffic comes from an Agg or a Core, where a VIP sends it on to its TIP."""
        return flow.sources.size == 1 and bool(flow.sources[0] >= self._tors)

    def _load_leg(self, origin: int, sent: float, switch: int, sign: int) -> tuple[int, float]:
        topology = self.topology
        if origin == switch or sent <= 0:
            return NOWHERE, 0.0
        found: tuple[int, float] = add_leg(
            *topology.out_links, topology.target, hops_to(topology, switch), self.links, topology.usable,
            origin, sent, sign,
        )  # fmt: skip
        refresh(self._shape, self._state)
        return found

    def _load(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        raise NotImplementedError("place and remove fill links and tables in one step")


class _CompiledCosts(KnownCosts):
    """Known costs with the least of them, searched by compiled code."""

    __slots__ = ("_least",)

    def __init__(self, costs: Floats, least: float) -> None:
        super().__init__(costs)
        self._least = least

    def least(self) -> float:
        """Return the smallest cost."""
        return self._least

    def first(self, limit: float, turn: int) -> int:
        """Return the first switch from `turn` on whose cost is at most `limit`, or NOWHERE."""
        found: int = first_within(self._costs, limit, turn)
        return found


__all__ = ["FatTreeLedger"]
