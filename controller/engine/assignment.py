"""From demands to placements: one loop that every strategy shares, and what it decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Demands
from controller.engine.ledger import Ledger, ledger_for
from controller.engine.strategies import SMUX, Candidates, Strategy, turn_of
from controller.engine.topology import Floats, Ints, Topology

FULL = 1 + 1e-9
"""The highest cost that is feasible."""


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
        if cost > FULL:
            return f"even the best switch would reach {cost:.1%}"
        return f"{self.strategy} left it there"


def assign(
    topology: Topology,
    demands: Demands,
    strategy: Strategy,
    previous: Ints | None = None,
    *,
    excluded: Ints | None = None,
    ledger: Ledger | None = None,
) -> Assignment:
    """Place VIPs by decreasing traffic, each with its TIPs or not at all.

    `previous` is the switch of every row before (-1: SMuxes), for strategies that look at it;
    `excluded` are switches that may carry nothing. A TIP is never on its VIP's own switch. A VIP that a
    strategy places nowhere, or one of whose TIPs fits nowhere, or that finds the /32 routes taken, is on
    the SMuxes.
    """
    if previous is not None and len(previous) != demands.row_count:
        raise ValueError(f"previous has {len(previous)} rows, the demands have {demands.row_count}")
    return _Run(
        topology, demands, strategy, previous, excluded, ledger or ledger_for(topology, demands)
    ).run()


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
        excluded: Ints | None,
        ledger: Ledger,
    ) -> None:
        self.topology, self.demands, self.strategy, self.ledger = topology, demands, strategy, ledger
        self.previous, self.excluded = previous, excluded
        rows = demands.row_count
        self.switch = np.full(rows, SMUX, np.int32)
        self.cost = np.full(rows, np.nan)
        self.bottleneck = np.full(rows, -1, np.int32)
        self.runner_up = np.full(rows, -1, np.int32)
        self.runner_up_cost = np.full(rows, np.nan)
        self.choose = strategy.begin(topology, demands, previous)
        self.carried = np.zeros(topology.switch_count)
        self.shares = demands.row_share()
        self.worst = self.ledger.worst()
        self.turn = [turn_of(name, topology.switch_count) for name in demands.names]

    def run(self) -> Assignment:
        demands = self.demands
        left = self.topology.routes
        for vip in np.argsort(-demands.traffic, kind="stable").tolist():
            if left < 1:
                break
            tips = demands.tips(vip)
            if 1 + len(tips) <= left and self._place_all(vip, tips):
                left -= 1 + len(tips)
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

    def _place_all(self, vip: int, tips: range) -> bool:
        traffic = float(self.demands.traffic[vip])
        if not self._place(vip, traffic, None):
            return False
        origin = int(self.switch[vip])
        for tip in tips:
            if not self._place(tip, traffic * float(self.shares[tip]), origin):
                for placed in range(tips.start, tip):
                    self._undo(placed, traffic * float(self.shares[placed]), origin)
                self._undo(vip, traffic, None)
                self.cost[vip] = self.cost[tip]
                return False
        return True

    def _place(self, row: int, traffic: float, origin: int | None) -> bool:
        costs = self.ledger.costs(row, origin)
        if self.excluded is not None:
            costs[self.excluded] = np.inf
        if origin is not None:
            costs[origin] = np.inf  # A switch does not send a packet through its own tables twice.
        current = SMUX if self.previous is None else int(self.previous[row])
        switch = self.choose(
            Candidates(row, traffic, costs, current, self.carried, self.turn[row], self.worst)
        )
        if switch == SMUX:
            self.cost[row] = costs.min()
            return False
        self.cost[row] = costs[switch]
        costs[switch] = np.inf
        rival = int(costs.argmin())
        if np.isfinite(costs[rival]):
            self.runner_up[row], self.runner_up_cost[row] = rival, costs[rival]
        self.switch[row] = switch
        self.bottleneck[row], busiest = self.ledger.place(row, switch, origin)
        self.worst = max(self.worst, busiest)
        self.carried[switch] += traffic
        return True

    def _undo(self, row: int, traffic: float, origin: int | None) -> None:
        switch = int(self.switch[row])
        self.ledger.remove(row, switch, origin)
        self.worst = self.ledger.worst()
        self.carried[switch] -= traffic
        self.switch[row] = SMUX
        self.bottleneck[row] = self.runner_up[row] = -1
        self.runner_up_cost[row] = np.nan


__all__ = ["FULL", "Assignment", "Explanation", "align", "assign"]
