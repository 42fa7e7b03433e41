"""From demands to placements: one loop that every strategy shares, and what it decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine.choices import KeepOrChoose
from controller.engine.demand import Demands
from controller.engine.ledger import NONE_BARRED, NOWHERE, Batch, Ledger, Progress
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
    staying: NDArray[np.bool_] | None = None,
    ledger: Ledger | None = None,
) -> Assignment:
    """Place VIPs by decreasing traffic, each with its TIPs or not at all.

    `previous` is the switch of every row before (-1: SMuxes), for strategies that look at it;
    `excluded` are switches that may carry nothing, `closed` those that may carry nothing new. Rows that are
    `staying` stay where they were, whether they fit or not, but not on a switch that is cut off. A TIP is
    never on its VIP's own switch. A VIP that a strategy places nowhere, or one of whose TIPs fits nowhere,
    or that finds the /32 routes taken, is on the SMuxes. A strategy that returns `STOP` leaves that VIP
    and all after it there.
    """
    if previous is not None and len(previous) != demands.row_count:
        raise ValueError(f"previous has {len(previous)} rows, the demands have {demands.row_count}")
    ledger = ledger or ledger_for(topology, demands)
    return _Run(topology, demands, strategy, previous, excluded, closed, staying, ledger).run()


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
        staying: NDArray[np.bool_] | None,
        ledger: Ledger,
    ) -> None:
        self.topology, self.demands, self.strategy, self.ledger = topology, demands, strategy, ledger
        self.barred = np.concatenate((excluded, closed)).astype(np.int32)
        rows = demands.row_count
        current = np.full(rows, SMUX, np.int32) if previous is None else previous.astype(np.int32)
        self.batch = Batch(
            flows=demands.flows,
            order=np.argsort(-demands.traffic, kind="stable"),
            has_tips=np.diff(demands.tip_start) > 0,
            current=current,
            staying=np.zeros(rows, np.bool_) if staying is None else staying,
            turns=demands.turns(topology.switch_count),
            traffic=demands.row_traffic,
            excluded=np.concatenate((excluded, ledger.cut_off)).astype(np.int32),
            closed=closed.astype(np.int32),
            switch=np.full(rows, SMUX, np.int32),
            cost=np.full(rows, np.nan),
            bottleneck=np.full(rows, NOWHERE, np.int32),
            runner_up=np.full(rows, NOWHERE, np.int32),
            runner_up_cost=np.full(rows, np.nan),
            carried=np.zeros(topology.switch_count),
        )
        self.choose = strategy.begin(topology, demands, previous)
        self.worst = ledger.worst()

    def run(self) -> Assignment:
        batch, demands = self.batch, self.demands
        so_far = Progress(0, self.topology.routes, self.worst)
        while True:
            if isinstance(self.choose, KeepOrChoose):
                so_far = self.ledger.place_rows(batch, so_far, self.choose)
            if so_far.at == len(batch.order) or so_far.left < 1:
                break
            vip, left = int(batch.order[so_far.at]), so_far.left
            self.worst = so_far.worst
            tips = demands.tips(vip)
            if 1 + len(tips) <= left:
                placed = self._place_all(vip, tips)
                if placed == STOP:
                    break
                if placed != SMUX:
                    left -= 1 + len(tips)
            so_far = Progress(so_far.at + 1, left, self.worst)
        return Assignment(
            topology=self.topology,
            demands=demands,
            strategy=self.strategy.name,
            switch=batch.switch,
            cost=batch.cost,
            bottleneck=batch.bottleneck,
            runner_up=batch.runner_up,
            runner_up_cost=batch.runner_up_cost,
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
                self.batch.cost[vip] = self.batch.cost[tip]
                return SMUX
        return origin

    def _place(self, row: int, origin: int | None) -> int:
        batch, flow = self.batch, self.demands.flow(row, origin)
        traffic, current = float(batch.traffic[row]), int(batch.current[row])
        barred = self.barred
        if current in batch.closed and current not in batch.excluded:
            barred = barred[barred != current]
        if origin is not None:  # A switch does not send a packet through its own tables twice.
            barred = np.append(barred, np.int32(origin))
        costs = self.ledger.costs(flow, barred)
        if batch.staying[row]:
            switch = SMUX if current in self.topology.down else current
        else:
            turn = int(batch.turns[row])
            candidates = Candidates(row, traffic, costs, current, batch.carried, turn, self.worst)
            switch = self.choose(candidates)
        if switch < 0:
            batch.cost[row] = costs.least()
            return switch
        batch.cost[row] = costs.at(switch)
        rival = costs.runner_up(switch)
        if rival != NOWHERE:
            batch.runner_up[row], batch.runner_up_cost[row] = rival, costs.at(rival)
        batch.switch[row] = switch
        batch.bottleneck[row], busiest = self.ledger.place(flow, switch)
        self.worst = max(self.worst, busiest)
        batch.carried[switch] += traffic
        return switch

    def _undo(self, row: int, origin: int | None) -> None:
        batch, switch = self.batch, int(self.batch.switch[row])
        self.ledger.remove(self.demands.flow(row, origin), switch)
        self.worst = self.ledger.worst()
        batch.carried[switch] -= batch.traffic[row]
        batch.switch[row] = SMUX
        batch.bottleneck[row] = batch.runner_up[row] = NOWHERE
        batch.runner_up_cost[row] = np.nan


__all__ = ["Assignment", "Explanation", "align", "assign"]
