"""The network as the engine sees it: switches with tables, and directed links with capacities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

HEADROOM = 0.2
"""The share of every link that the assignment leaves free (the paper's section 4)."""

ROUTES = 16384
"""/32 routes a switch holds. Every switch needs one per HMux VIP, so it bounds the whole data centre."""

TABLES = ("host", "ECMP", "tunneling", "ACL")
"""The tables an HMux VIP uses, in the order of the columns of `Topology.tables`."""

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MuxTables:
    """How many entries the tables of one switch hold for VIPs and TIPs."""

    host: int = 16384
    ecmp: int = 4096
    tunneling: int = 512
    acl: int = 1024

    def row(self) -> tuple[int, int, int, int]:
        """Return the sizes in the order of `TABLES`."""
        return (self.host, self.ecmp, self.tunneling, self.acl)


NO_TABLES = MuxTables(0, 0, 0, 0)
"""A switch that forwards but cannot be an HMux."""


@dataclass(frozen=True)
class FatTreeShape:
    """A FatTree in which Agg `a` of every container connects to the same `cores_per_agg` Cores.

    Defaults are the paper's data centre (section 8.1). Capacities in bit/s, each way.
    """

    containers: int = 40
    tors: int = 40
    aggs: int = 4
    cores_per_agg: int = 10
    tor_agg_bps: float = 10e9
    agg_core_bps: float = 40e9

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number that makes no FatTree."""
        for name in ("containers", "tors", "aggs", "cores_per_agg"):
            if getattr(self, name) < 1:
                raise ValueError(f"a FatTree needs at least one of {name}, not {getattr(self, name)}")
        for name in ("tor_agg_bps", "agg_core_bps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: a capacity must be positive, not {getattr(self, name)}")

    @property
    def tor_count(self) -> int:
        """ToRs in all containers."""
        return self.containers * self.tors

    @property
    def agg_count(self) -> int:
        """Aggs in all containers."""
        return self.containers * self.aggs

    @property
    def core_count(self) -> int:
        """Cores."""
        return self.aggs * self.cores_per_agg

    @property
    def switch_count(self) -> int:
        """All switches: ToRs come first, then Aggs, then Cores."""
        return self.tor_count + self.agg_count + self.core_count


@dataclass(frozen=True, eq=False)
class Topology:
    """Switches 0..n-1, directed links, tables.

    `source`, `target`, `capacity` (bit/s) are per link; `tables` is one row of `TABLES` per switch;
    `entries` are the switches at which the Internet's traffic enters, in equal shares; `container`
    is the failure domain of each switch, -1 for none; `shape` is set where the network is a FatTree
    with its switches and links in the order of `fat_tree`. `down` are switches that are cut off: they keep
    their number, but have no link; they carry nothing, and what they send or should get is no traffic.
    Raises ValueError for a capacity that is not positive and for switches that cannot reach each other.
    """

    names: tuple[str, ...]
    source: Ints
    target: Ints
    capacity: Floats
    tables: NDArray[np.int64]
    entries: Ints
    container: Ints
    routes: int = ROUTES
    headroom: float = HEADROOM
    shape: FatTreeShape | None = None
    down: frozenset[int] = frozenset()
    index: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Check the arrays and index the names."""
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.names)})
        if not self.names:
            raise ValueError("a topology needs at least one switch")
        if len(self.index) != len(self.names):
            twice = next(name for i, name in enumerate(self.names) if self.index[name] != i)
            raise ValueError(f"two switches are called {twice!r}")
        if not 0 <= self.headroom < 1:
            raise ValueError(f"headroom {self.headroom} is not within 0..1")
        if (self.tables < 0).any():
            raise ValueError(
                f"switch {self.names[int(np.argwhere(self.tables < 0)[0, 0])]} has a negative table"
            )
        bad = np.flatnonzero(~(np.isfinite(self.capacity) & (self.capacity > 0)))
        if bad.size:
            raise ValueError(
                f"link {self.link_name(int(bad[0]))} has capacity {self.capacity[bad[0]]:g} bit/s"
            )
        self._check_reachable()

    @property
    def switch_count(self) -> int:
        """Number of switches."""
        return len(self.names)

    @property
    def link_count(self) -> int:
        """Number of directed links."""
        return len(self.capacity)

    @cached_property
    def living(self) -> NDArray[np.bool_]:
        """Which switches are not cut off."""
        living = np.ones(self.switch_count, np.bool_)
        living[list(self.down)] = False
        return living

    @cached_property
    def usable(self) -> Floats:
        """What the assignment may use of each link, bit/s: the capacity without the headroom."""
        return self.capacity * (1 - self.headroom)

    @cached_property
    def out_links(self) -> tuple[Ints, Ints]:
        """Outgoing links in CSR form: links of switch u are `links[start[u]:start[u + 1]]`."""
        order = np.argsort(self.source, kind="stable").astype(np.int32)
        counts = np.bincount(self.source, minlength=self.switch_count)
        return np.concatenate(([0], np.cumsum(counts))).astype(np.int32), order

    @cached_property
    def in_links(self) -> tuple[Ints, Ints]:
        """Incoming links in CSR form, as `out_links`."""
        order = np.argsort(self.target, kind="stable").astype(np.int32)
        counts = np.bincount(self.target, minlength=self.switch_count)
        return np.concatenate(([0], np.cumsum(counts))).astype(np.int32), order

    @cached_property
    def _between(self) -> dict[frozenset[int], list[int]]:
        """The links between two switches, both ways."""
        found: dict[frozenset[int], list[int]] = {}
        for link, ends in enumerate(zip(self.source.tolist(), self.target.tolist(), strict=True)):
            found.setdefault(frozenset(ends), []).append(link)
        return found

    def without(self, switches: Iterable[str] = (), links: Iterable[tuple[str, str]] = ()) -> Topology:
        """Return what is left of the network when these switches, and these links both ways, are down.

        Of what falls apart the largest part counts; switches outside of it are cut off as well. Raises
        ValueError for a switch or a link that there is not.
        """
        living, up = self.living.copy(), np.ones(self.link_count, np.bool_)
        for name in switches:
            if name not in self.index:
                raise ValueError(f"there is no switch {name!r} in the topology")
            living[self.index[name]] = False
        for one, other in links:
            found = self._between.get(frozenset((self.index.get(one, -1), self.index.get(other, -1))))
            if found is None:
                raise ValueError(f"there is no link {one}-{other} in the topology")
            up[found] = False
        if living.all() and up.all():
            return self
        up &= living[self.source] & living[self.target]
        living = _largest_part(living, self.source[up], self.target[up])
        up &= living[self.source] & living[self.target]
        return replace(
            self,
            source=self.source[up],
            target=self.target[up],
            capacity=self.capacity[up],
            entries=self.entries[living[self.entries]],
            shape=None,
            down=frozenset(np.flatnonzero(~living).tolist()),
        )

    def link_name(self, link: int) -> str:
        """Return `from->to`."""
        return f"{self.names[self.source[link]]}->{self.names[self.target[link]]}"

    def resource_name(self, resource: int) -> str:
        """Name a resource: links come first, then the tables of each switch."""
        if resource < self.link_count:
            return f"link {self.link_name(resource)}"
        switch, table = divmod(resource - self.link_count, len(TABLES))
        return f"{TABLES[table]} table of {self.names[switch]}"

    @classmethod
    def from_graph(
        cls,
        graph: nx.Graph,
        *,
        entries: Iterable[str] = (),
        tables: Mapping[str, MuxTables] | None = None,
        routes: int = ROUTES,
        headroom: float = HEADROOM,
    ) -> Topology:
        """Build a topology from a graph of switches; an undirected edge is a link each way.

        Edges carry `capacity_bps`; nodes may carry `container` (an integer or None). Switches that
        `tables` leaves out have the paper's sizes. `entries` defaults to all switches.
        """
        names = tuple(str(node) for node in graph.nodes)
        index = {node: i for i, node in enumerate(graph.nodes)}
        ends: list[tuple[int, int, float]] = []
        for u, v, data in graph.edges(data=True):
            capacity = data.get("capacity_bps")
            if capacity is None:
                raise ValueError(f"link {u}-{v} states no capacity_bps")
            ends.append((index[u], index[v], float(capacity)))
            if not graph.is_directed():
                ends.append((index[v], index[u], float(capacity)))
        named = {name: i for i, name in enumerate(names)}
        for name in [*entries, *(tables or ())]:
            if name not in named:
                raise ValueError(f"there is no switch {name!r} in the topology")
        sizes = tables or {}
        return cls(
            names=names,
            source=np.array([u for u, _, _ in ends], np.int32),
            target=np.array([v for _, v, _ in ends], np.int32),
            capacity=np.array([c for _, _, c in ends], np.float64),
            tables=np.array([sizes.get(name, MuxTables()).row() for name in names], np.int64).reshape(-1, 4),
            entries=np.array([named[name] for name in entries] or list(named.values()), np.int32),
            container=np.array([_container(data) for _, data in graph.nodes(data=True)], np.int32),
            routes=routes,
            headroom=headroom,
        )

    @classmethod
    def fat_tree(
        cls,
        shape: FatTreeShape | None = None,
        *,
        tables: MuxTables | None = None,
        routes: int = ROUTES,
        headroom: float = HEADROOM,
    ) -> Topology:
        """Build the paper's data centre, or a FatTree of another size. The Internet enters at the Cores.

        Links are ordered ToR to Agg, Agg to ToR (by ToR, then Agg), Agg to Core, Core to Agg (by
        container, Agg, then Core of that Agg).
        """
        shape = shape or FatTreeShape()
        tors, aggs, cores = shape.tor_count, shape.agg_count, shape.core_count
        tor = np.repeat(np.arange(tors), shape.aggs)
        agg = tors + (tor // shape.tors) * shape.aggs + np.tile(np.arange(shape.aggs), tors)
        upper = np.repeat(np.arange(aggs), shape.cores_per_agg)
        core = (upper % shape.aggs) * shape.cores_per_agg + np.tile(np.arange(shape.cores_per_agg), aggs)
        upper, core = upper + tors, core + tors + aggs
        names = [f"tor{k + 1}.{t + 1}" for k in range(shape.containers) for t in range(shape.tors)]
        names += [f"agg{k + 1}.{a + 1}" for k in range(shape.containers) for a in range(shape.aggs)]
        names += [f"core{c + 1}" for c in range(cores)]
        by_container = np.repeat(np.arange(shape.containers), shape.tors)
        return cls(
            names=tuple(names),
            source=np.concatenate((tor, agg, upper, core)).astype(np.int32),
            target=np.concatenate((agg, tor, core, upper)).astype(np.int32),
            capacity=np.concatenate(
                (np.full(2 * tor.size, shape.tor_agg_bps), np.full(2 * upper.size, shape.agg_core_bps))
            ).astype(np.float64),
            tables=np.tile(np.array((tables or MuxTables()).row(), np.int64), (shape.switch_count, 1)),
            entries=np.arange(tors + aggs, tors + aggs + cores, dtype=np.int32),
            container=np.concatenate(
                (by_container, np.repeat(np.arange(shape.containers), shape.aggs), np.full(cores, -1))
            ).astype(np.int32),
            routes=routes,
            headroom=headroom,
            shape=shape,
        )

    def _check_reachable(self) -> None:
        living = np.flatnonzero(self.living)
        if not living.size:
            return
        first = int(living[0])
        for ends, others, text in (
            (self.source, self.target, "cannot be reached from"),
            (self.target, self.source, "cannot reach"),
        ):
            lost = np.flatnonzero(self.living & ~_reached(first, self.switch_count, ends, others))
            if lost.size:
                names = _listed([self.names[i] for i in lost])
                raise ValueError(f"{names} {text} {self.names[first]}: the topology is not connected")


def _reached(first: int, count: int, ends: Ints, others: Ints) -> NDArray[np.bool_]:
    """Return the switches that links lead to from `first`, from `ends` to `others`."""
    seen = np.zeros(count, np.bool_)
    seen[first] = True
    while True:
        found = others[seen[ends]]
        if seen[found].all():
            return seen
        seen[found] = True


def _largest_part(living: NDArray[np.bool_], source: Ints, target: Ints) -> NDArray[np.bool_]:
    """Return the most switches of `living` that can all reach each other; the first such part of equals."""
    best, left = np.zeros_like(living), living.copy()
    while left.sum() > best.sum():
        first = int(left.argmax())
        part = _reached(first, living.size, source, target) & _reached(first, living.size, target, source)
        if part.sum() > best.sum():
            best = part
        left &= ~part
    return best


def _container(data: Mapping[str, Any]) -> int:
    container = data.get("container")
    return -1 if container is None else int(container)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{'switch' if len(names) == 1 else 'switches'} {shown}{more}"
