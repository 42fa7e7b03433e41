"""A synthetic trace in place of the paper's, which is not public: VIPs, DIPs, sources, traffic over time.

Everything is drawn from one seed. `Profile` lists every parameter with what it stands for; those that
were fitted to a statement about the paper's trace say so. docs/simulation.md has the same table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from controller.engine import Demands, FatTreeShape, Topology
from controller.engine.topology import Floats
from duet_p4.slots import SLOTS_PER_MEMBER

TBPS = 1e12
INTERVAL_S = 600
"""The paper's trace has a rate per VIP for every 10 minutes."""


@dataclass(frozen=True)
class Profile:
    """Parameters of the generator. Rates are at `reference_bps` of total traffic."""

    vips: int = 30_000
    intervals: int = 18
    reference_bps: float = 10 * TBPS
    """The traffic at which fan-out and source counts are sized; other totals scale the rates alone."""

    top_vips: float = 0.10
    top_bytes: float = 0.99
    """Fitted: the skew makes the largest `top_vips` of the VIPs carry `top_bytes` of the bytes."""
    largest_share: float = 0.01
    """The largest VIP's share of the bytes at most, at any time: 100 Gbps of 10 Tbps."""

    dips_median: float = 4.0
    dips_sigma: float = 1.6
    """DIPs per VIP before traffic counts: lognormal."""
    dip_bps: float = 0.5e9
    """A DIP serves at most this much, so a VIP of much traffic has many DIPs."""
    dips_most: int = 2000

    internet_share: float = 0.3
    """Share of the bytes that enters through the Cores; per VIP Beta-distributed, mostly all or little."""
    source_bps: float = 0.25e9
    """A source ToR sends a VIP about this much, so a VIP of much traffic has many sources."""
    sources_least: int = 2

    drift: float = 0.25
    """Standard deviation of the change of log traffic per interval."""
    reversion: float = 0.1
    """Share of the distance to its own mean that log traffic goes back per interval."""
    burst_chance: float = 0.01
    burst_factor: float = 4.0
    burst_length: float = 2.0
    """Chance that a VIP starts a burst in an interval, its height, and its mean length in intervals."""
    swing: float = 0.1
    """Amplitude of the total over the trace, one period of a sine in 3 hours."""

    packet_bytes: tuple[float, float] = (200.0, 1400.0)
    """Mean packet size of a VIP: uniform between these."""

    def __post_init__(self) -> None:
        """Raise ValueError naming the first parameter that makes no trace."""
        for name in (
            "vips",
            "intervals",
            "reference_bps",
            "dips_median",
            "dip_bps",
            "source_bps",
            "dips_most",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"workload: {name} must be positive, not {getattr(self, name)}")
        for name in ("top_vips", "top_bytes", "largest_share", "internet_share", "reversion", "burst_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"workload: {name} must be within 0..1, not {getattr(self, name)}")

    def scaled(self, vips: int, reference_bps: float) -> Profile:
        """Return the profile of another data centre: other VIPs and traffic, the same sizes per VIP.

        The largest VIP's share grows with the square root of the shrinkage, or few VIPs would be too even.
        """
        share = min(0.1, self.largest_share * (self.vips / vips) ** 0.5)
        return replace(self, vips=vips, reference_bps=reference_bps, largest_share=share)


@dataclass(frozen=True, eq=False)
class Trace:
    """VIPs with their traffic per interval: `rates[interval, vip]` in bit/s, `packets` in packets/s."""

    demands: Demands
    rates: Floats
    packets: Floats
    dips: NDArray[np.int64]
    """DIPs per VIP."""

    def at(self, interval: int, total_bps: float | None = None) -> Demands:
        """Return the demands of an interval; `total_bps` rescales the mean interval to that total."""
        rates = self.rates[interval]
        if total_bps is not None:
            rates = rates * (total_bps / self.rates.sum(axis=1).mean())
        return self.demands.with_traffic(rates)


def generate(topology: Topology, profile: Profile, seed: int) -> Trace:
    """Draw a trace for a FatTree. The same arguments give the same trace."""
    if topology.shape is None:
        raise ValueError("the generator needs a FatTree")
    rng = np.random.default_rng(seed)
    shares = traffic_shares(profile)
    traffic = shares * profile.reference_bps
    dips = _dip_counts(rng, profile, traffic)
    tors = topology.shape.tor_count
    dip_start, dip_switch, dip_count = _spread(rng, dips, np.minimum(dips, tors), topology.shape)
    internet = _internet(rng, profile, traffic)
    wanted = np.ceil(profile.sources_least + (1 - internet) * traffic / profile.source_bps).astype(np.int64)
    source_start, source_switch, source_share = _sources(rng, np.minimum(wanted, tors), internet, tors)
    demands = columns(
        [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(profile.vips)],
        traffic,
        internet,
        (source_start, source_switch, source_share),
        (dip_start, dip_switch, dip_count),
        int(topology.tables[:, 2].max()),
    )
    rates = _over_time(rng, profile, traffic)
    size = rng.uniform(*profile.packet_bytes, profile.vips) * 8
    return Trace(demands=demands, rates=rates, packets=rates / size, dips=dips)


def traffic_shares(profile: Profile) -> Floats:
    """Return every VIP's share of the bytes, decreasing: a lognormal cut off at the largest share.

    Quantiles instead of draws: the skew is the same for every seed.
    """
    scores = ndtri((np.arange(profile.vips, 0, -1) - 0.5) / profile.vips)
    top = max(1, round(profile.top_vips * profile.vips))
    low, high = 0.1, 8.0
    for _ in range(60):
        sigma = (low + high) / 2
        shares = _cut(np.exp(sigma * (scores - scores[0])), profile.largest_share)
        if shares[:top].sum() < profile.top_bytes:
            low = sigma
        else:
            high = sigma
    return shares


def columns(
    names: list[str],
    traffic: Floats,
    internet: Floats,
    sources: tuple[NDArray[np.int64], NDArray[np.int32], Floats],
    dips: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]],
    fan_out: int,
) -> Demands:
    """Put VIPs of equal DIPs into the engine's columns; those with more than `fan_out` DIPs go over TIPs.

    Sources are (start, switch, share of the VIP's traffic), DIPs (start, switch, count), CSR by VIP.
    """
    dip_start, dip_switch, dip_count = dips
    totals = np.add.reduceat(dip_count, dip_start[:-1])
    large = np.flatnonzero(totals > fan_out)
    owner = np.repeat(np.arange(len(names)), np.diff(dip_start))
    keep = totals[owner] <= fan_out
    share = dip_count / totals[owner]
    tables = np.zeros((len(names), 4), np.int64)
    tables[:, 0] = 1
    tables[:, 2] = np.where(totals <= fan_out, totals, -(-totals // fan_out))
    tables[:, 1] = SLOTS_PER_MEMBER * tables[:, 2]
    tip_names: list[str] = []
    tip_tables: list[tuple[int, int, int, int]] = []
    tip_switch, tip_share, tip_length = [], [], []
    tip_counts = np.zeros(len(names), np.int64)
    for vip in large:
        at = slice(dip_start[vip], dip_start[vip + 1])
        parts = int(tables[vip, 2])
        tip_counts[vip] = parts
        racks = np.repeat(dip_switch[at], dip_count[at])
        for part in np.array_split(racks, parts):
            n = len(tip_names)
            tip_names.append(f"20.0.{n >> 8}.{n & 255}")
            tip_tables.append((1, SLOTS_PER_MEMBER * part.size, part.size, 0))
            switches, counts = np.unique(part, return_counts=True)
            tip_switch.append(switches)
            tip_share.append(counts / racks.size)
            tip_length.append(len(switches))
    direct = np.where(totals <= fan_out, np.diff(dip_start), 0)
    return Demands(
        names=[*names, *tip_names],
        traffic=traffic,
        internet=internet,
        source_start=sources[0],
        source_switch=sources[1],
        source_share=sources[2],
        dip_start=_starts(np.concatenate((direct, tip_length)).astype(np.int64)),
        dip_switch=np.concatenate((dip_switch[keep], *tip_switch)).astype(np.int32),
        dip_share=np.concatenate((share[keep], *tip_share)),
        tables=np.concatenate((tables, np.array(tip_tables, np.int64).reshape(-1, 4))),
        tip_start=_starts(tip_counts),
    )


def _cut(weights: Floats, most: float) -> Floats:
    """Normalize to shares of which none exceeds `most`: the excess goes to the rest in proportion."""
    shares: Floats = weights / weights.sum()
    for _ in range(100):
        over = shares > most
        if not over.any() or over.all():
            break
        rest = 1 - most * over.sum()
        if rest <= 0:
            return np.full(len(shares), 1 / len(shares))
        shares = np.where(over, most, shares * rest / shares[~over].sum())
        if shares.max() <= most * (1 + 1e-9):
            break
    return shares


def _dip_counts(rng: np.random.Generator, profile: Profile, traffic: Floats) -> NDArray[np.int64]:
    drawn = profile.dips_median * np.exp(profile.dips_sigma * rng.standard_normal(len(traffic)))
    least = traffic / profile.dip_bps
    return np.clip(np.ceil(drawn + least), 1, profile.dips_most).astype(np.int64)


def _internet(rng: np.random.Generator, profile: Profile, traffic: Floats) -> Floats:
    mean = profile.internet_share
    if mean in (0.0, 1.0):
        return np.full(len(traffic), mean)
    drawn: Floats = rng.beta(0.3 * mean / (1 - mean), 0.3, len(traffic))
    return drawn


def _spread(
    rng: np.random.Generator, counts: NDArray[np.int64], racks: NDArray[np.int64], shape: FatTreeShape
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Put each VIP's DIPs on distinct ToRs as far as there are any, evenly."""
    start = _starts(racks)
    switches = _distinct(rng, racks, shape.tor_count)
    owner = np.repeat(np.arange(len(counts)), racks)
    base, more = np.divmod(counts, racks)
    position = np.arange(start[-1]) - start[owner]
    return start, switches, (base[owner] + (position < more[owner])).astype(np.int64)


def _sources(
    rng: np.random.Generator, racks: NDArray[np.int64], internet: Floats, tors: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Pick source ToRs with exponential weights."""
    start = _starts(racks)
    weights = rng.exponential(1.0, int(start[-1])) + 0.1
    owner = np.repeat(np.arange(len(racks)), racks)
    sums = np.add.reduceat(weights, start[:-1])
    return start, _distinct(rng, racks, tors), weights / sums[owner] * (1 - internet)[owner]


def _distinct(rng: np.random.Generator, counts: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    """Draw `counts[i]` distinct numbers below n for every i: a random start and a random coprime stride."""
    strides = np.array([s for s in range(1, n + 1) if np.gcd(s, n) == 1], np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    first = rng.integers(0, n, len(counts))
    stride = rng.choice(strides, len(counts))
    position = np.arange(len(owner)) - _starts(counts)[owner]
    drawn: NDArray[np.int32] = ((first[owner] + position * stride[owner]) % n).astype(np.int32)
    return drawn


def _over_time(rng: np.random.Generator, profile: Profile, mean: Floats) -> Floats:
    """Let every VIP's log traffic drift around its mean and burst now and then; the total swings."""
    spread = profile.drift / np.sqrt(1 - (1 - profile.reversion) ** 2) if profile.reversion else 0.0
    level = rng.standard_normal(len(mean)) * spread
    left = np.zeros(len(mean))
    rates = np.empty((profile.intervals, len(mean)))
    for interval in range(profile.intervals):
        starting = rng.random(len(mean)) < profile.burst_chance
        left = np.where(starting, rng.geometric(1 / profile.burst_length, len(mean)), np.maximum(left - 1, 0))
        now = _cut(
            mean * np.exp(level) * np.where(left > 0, profile.burst_factor, 1.0), profile.largest_share
        )
        phase = 2 * np.pi * interval / profile.intervals
        rates[interval] = now * mean.sum() * (1 + profile.swing * np.sin(phase))
        level = (1 - profile.reversion) * level + profile.drift * rng.standard_normal(len(mean))
    return rates


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


__all__ = ["INTERVAL_S", "TBPS", "Profile", "Trace", "columns", "generate", "traffic_shares"]
