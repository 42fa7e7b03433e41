"""From demands to placements: one loop that every strategy shares, and what it decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Demands
from controller.engine.ledger import NONE_BARRED, NOWHERE, Ledger
from controller.engine.ledgers import ledger_for
from controller.engine.strategy import FEASIBLE, SMUX, STOP, Candidates, Strategy
from controller.engine.topology import Floats, Ints, Topology


@dataclass(frozen=True)
class Explanation:
    """Why a VIP or TIP is where it is. Utilizations are at the time it was placed, 1 = full."""

    name: str
    switch: str | None
    bottleneck: str | None
    utilization: float | None
    runner_up: str | None
    runner_up_utilization: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which switch carries each row of the demands (-1: the SMuxes), and why.

    `cost` is the maximum utilization over the resources that the row touches; for a row on the
    SMuxes it is what the best switch would have reached (NaN where none was tried).
    """

    topology: Topology
    demands: Demands
    strategy: str
    switch: Ints
    cost: Floats
    bottleneck: Ints
    runner_up: Ints
    runner_up_cost: Floats
    ledger: Ledger

    def placement(self) -> dict[str, str | None]:
        """Return the switch of every VIP and TIP by name, None for the SMuxes."""
        names = self.topology.names
        return {
            name: names[switch] if switch != SMUX else None
            for name, switch in zip(self.demands.names, self.switch.tolist(), strict=True)
        }

    @property
    def on_hmux(self) -> NDArray[np.bool_]:
        """Which VIPs are on HMuxes."""
        on_hmux: NDArray[np.bool_] = self.switch[: self.demands.vip_count] != SMUX
        return on_hmux

    @property
    def hmux_traffic(self) -> float:
        """Traffic of the VIPs on HMuxes, bit/s."""
        return float(self.demands.traffic[self.on_hmux].sum())

    @property
    def hmux_share(self) -> float:
        """The share of all traffic that HMuxes carry."""
        return self.hmux_traffic / self.demands.total if self.demands.total else 0.0

    @property
    def routes(self) -> int:
        """/32 routes in use: one per VIP and TIP on an HMux."""
        return int((self.switch != SMUX).sum())

    def explain(self, name: str) -> Explanation:
        """Say why a VIP or TIP is where it is. Raises KeyError for a name that was not placed."""
        if name not in self.demands.index:
            raise KeyError(f"no VIP or TIP {name!r} in this assignment")
        row = self.demands.index[name]
        switch, cost = int(self.switch[row]), float(self.cost[row])
        rival = int(self.runner_up[row])
        rival_name = self.topology.names[rival] if rival >= 0 else None
        if switch == SMUX:
            reason = self._why_not(cost)
        else:
            reason = f"{self.strategy}: reaches {cost:.1%} at most"
            if rival_name:
                reason += f", {rival_name} would reach {float(self.runner_up_cost[row]):.1%}"
        return Explanation(
            name=name,
            switch=None if switch == SMUX else self.topology.names[switch],
            bottleneck=None if switch == SMUX else self.topology.resource_name(int(self.bottleneck[row])),
            utilization=None if np.isnan(cost) else cost,
            runner_up=rival_name,
            runner_up_utilization=float(self.runner_up_cost[row]) if rival_name else None,
            reason=reason,
        )

    def _why_not(self, cost: float) -> str:
        if np.isnan(cost):
            if self.routes >= self.topology.routes:
                return f"all {self.topology.routes} /32 routes are taken"
            return f"{self.strategy} tried no switch"
        if cost > FEASIBLE:
            return f"even the best switch would reach {cost:.1%}"
        return f"{self.strategy} left it there"


def assign(
    topology: Topology,
    demands: Demands,
    strategy: Strategy,
    previous: Ints | None = None,
    *,
    excluded: Ints = NONE_BARRED,
    closed: Ints = NONE_BARRED,
    ledger: Ledger | None = None,
) -> Assignment:
    """Place VIPs by decreasing traffic, each with its TIPs or not at all.

    `previous` is the switch of every row before (-1: SMuxes), for strategies that look at it;
    `excluded` are switches that may carry nothing, `closed` those that may carry nothing new. A TIP is
    never on its VIP's own switch. A VIP that a strategy places nowhere, or one of whose TIPs fits nowhere,
    or that finds the /32 routes taken, is on the SMuxes. A strategy that returns `STOP` leaves that VIP
    and all after it there.
    """
    if previous is not None and len(previous) != demands.row_count:
        raise ValueError(f"previous has {len(previous)} rows, the demands have {demands.row_count}")
    ledger = ledger or ledger_for(topology, demands)
    return _Run(topology, demands, strategy, previous, excluded, closed, ledger).run()


def align(placement: Mapping[str, str | None], topology: Topology, demands: Demands) -> Ints:
    """Turn a placement by name into the `previous` of `assign`; unknown names and switches are on SMuxes."""
    return np.array(
        [topology.index.get(placement.get(name) or "", SMUX) for name in demands.names], np.int32
    ).reshape(demands.row_count)


class _Run:
    def __init__(
        self,
        topology: Topology,
        demands: Demands,
        strategy: Strategy,
        previous: Ints | None,
        excluded: Ints,
        closed: Ints,
        ledger: Ledger,
    ) -> None:
        self.topology, self.demands, self.strategy, self.ledger = topology, demands, strategy, ledger
        self.barred = np.concatenate((excluded, closed)).astype(np.int32)
        self.closed = frozenset(closed.tolist()) - frozenset(excluded.tolist())
        rows = demands.row_count
        self.current = [SMUX] * rows if previous is None else previous.tolist()
        self.switch = np.full(rows, SMUX, np.int32)
        self.cost = np.full(rows, np.nan)
        self.bottleneck = np.full(rows, NOWHERE, np.int32)
        self.runner_up = np.full(rows, NOWHERE, np.int32)
        self.runner_up_cost = np.full(rows, np.nan)
        self.choose = strategy.begin(topology, demands, previous)
        self.carried = np.zeros(topology.switch_count)
        self.traffic = demands.row_traffic.tolist()
        self.turns = demands.turns(topology.switch_count)
        self.worst = ledger.worst()

    def run(self) -> Assignment:
        demands = self.demands
        left = self.topology.routes
        tips = np.diff(demands.tip_start)
        for vip in np.argsort(-demands.traffic, kind="stable").tolist():
            if left < 1:
                break
            needed = 1 + int(tips[vip])
            if needed > left:
                continue
            placed = self._place_all(vip, demands.tips(vip))
            if placed == STOP:
                break
            if placed != SMUX:
                left -= needed
        return Assignment(
            topology=self.topology,
            demands=demands,
            strategy=self.strategy.name,
            switch=self.switch,
            cost=self.cost,
            bottleneck=self.bottleneck,
            runner_up=self.runner_up,
            runner_up_cost=self.runner_up_cost,
            ledger=self.ledger,
        )

    def _place_all(self, vip: int, tips: range) -> int:
        """Place a VIP with its TIPs; return its switch, `SMUX` or `STOP`."""
        origin = self._place(vip, None)
        if origin < 0:
            return origin
        for tip in tips:
            found = self._place(tip, origin)
            if found < 0:
                for placed in range(tips.start, tip):
                    self._undo(placed, origin)
                self._undo(vip, None)
                self.cost[vip] = self.cost[tip]
                return found
        return origin

    def _place(self, row: int, origin: int | None) -> int:
        flow, traffic, current = self.demands.flow(row, origin), self.traffic[row], self.current[row]
        barred = self.barred
        if current in self.closed:
            barred = barred[barred != current]
        if origin is not None:  # A switch does not send a packet through its own tables twice.
            barred = np.append(barred, np.int32(origin))
        costs = self.ledger.costs(flow, barred)
        switch = self.choose(
            Candidates(row, traffic, costs, current, self.carried, self.turns[row], self.worst)
        )
        if switch < 0:
            self.cost[row] = costs.least()
            return switch
        self.cost[row] = costs.at(switch)
        rival = costs.runner_up(switch)
        if rival != NOWHERE:
            self.runner_up[row], self.runner_up_cost[row] = rival, costs.at(rival)
        self.switch[row] = switch
        self.bottleneck[row], busiest = self.ledger.place(flow, switch)
        self.worst = max(self.worst, busiest)
        self.carried[switch] += traffic
        return switch

    def _undo(self, row: int, origin: int | None) -> None:
        switch = int(self.switch[row])
        self.ledger.remove(self.demands.flow(row, origin), switch)
        self.worst = self.ledger.worst()
        self.carried[switch] -= self.traffic[row]
        self.switch[row] = SMUX
        self.bottleneck[row] = self.runner_up[row] = NOWHERE
        self.runner_up_cost[row] = np.nan


__all__ = ["Assignment", "Explanation", "align", "assign"]
