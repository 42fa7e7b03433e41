"""The strategies of the simulation by name."""

from __future__ import annotations

from controller.engine import Balanced, Greedy, Random, Strategy
from controller.engine.strategies.paper import Frozen, Mru, NearTies, RandomOrders, Terminating


def strategy(name: str, seed: int, *, delta: float = 0.05) -> Strategy:
    """Return a strategy of the simulation by name; ValueError lists those there are.

    `NAME-stop` and `NAME-skip` say what happens at the first VIP that fits nowhere: the paper's stop
    there, ours skip it. `near-ties@EPSILON` and `near-mru@EPSILON` take a number.
    """
    base, _, end = name.rpartition("-")
    if end in ("stop", "skip") and base:
        found = _plain(base, seed, delta)
        return Terminating(found) if end == "stop" else found
    found = _plain(name, seed, delta)
    return Terminating(found) if name in ("duet", "random", "random-orders", "sticky") else found


def _plain(name: str, seed: int, delta: float) -> Strategy:
    base, _, number = name.partition("@")
    if base in ("near-ties", "near-mru"):
        return NearTies(float(number), everywhere=base == "near-mru")
    known: dict[str, Strategy] = {
        "duet": Mru(seed),
        "lightest": Greedy(),
        "balanced": Balanced(),
        "random": Random(seed),
        "random-orders": RandomOrders(seed),
        "sticky": Mru(seed, delta),
        "one-time": Frozen(Terminating(Mru(seed))),
    }
    if name not in known:
        raise ValueError(f"no strategy {name!r}; there are {', '.join(known)}, near-ties@E, near-mru@E")
    return known[name]


__all__ = ["strategy"]
