"""A synthetic trace in place of the paper's, which is not public: VIPs, DIPs, sources, traffic over time.

Everything is drawn from one seed. `profile` lists every parameter with where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine import Demands, FatTreeShape, Topology
from controller.engine.topology import Floats
from controller.simulation import churn
from controller.simulation.profile import Profile
from duet_p4.slots import SLOTS_PER_MEMBER

HEAD_LEAST = 20
"""VIPs that the power law at the head of the byte CDF spans at least; a small data centre skips points."""

Racks = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]
"""Start, ToR and count: which racks each VIP uses, CSR by VIP."""


@dataclass(frozen=True, eq=False)
class Trace:
    """VIPs with their traffic: `typical[vip]` in bit/s, `rates[interval, vip]` over time, `packet_bits[vip]`.

    `typical` follows the profile's byte CDF point by point; VIPs born later have none.
    """

    demands: Demands
    typical: Floats
    rates: Floats
    packet_bits: Floats
    dips: NDArray[np.int64]
    """DIPs per VIP."""

    def steady(self, total_bps: float | None = None) -> Demands:
        """Return the demands of a typical moment, scaled to a total."""
        factor = 1.0 if total_bps is None else total_bps / self.typical.sum()
        return self.demands.with_traffic(self.typical * factor)

    def at(self, interval: int, total_bps: float | None = None) -> Demands:
        """Return the demands of an interval; `total_bps` rescales the mean interval to that total."""
        rates = self.rates[interval]
        if total_bps is not None:
            rates = rates * (total_bps / self.rates.sum(axis=1).mean())
        return self.demands.with_traffic(rates)


def generate(topology: Topology, profile: Profile, seed: int) -> Trace:
    """Draw a trace for a FatTree. The same arguments give the same trace."""
    shape = topology.shape
    if shape is None:
        raise ValueError("the generator needs a FatTree")
    rng = np.random.default_rng(seed)
    mean = traffic_shares(profile) * profile.reference_bps
    who = churn.lives(rng, profile)
    traffic = mean[who.rank]
    dips = _dip_counts(rng, profile, traffic)
    homes = _Homes(rng, profile, np.minimum(dips, shape.tor_count), shape)
    placed = homes.dips(dips)
    internet = _internet(rng, profile, traffic)
    wanted = np.ceil(profile.sources_least + (1 - internet) * traffic / profile.source_bps).astype(np.int64)
    demands = columns(
        [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(len(traffic))],
        traffic,
        internet,
        _weighted(rng, homes.sources(np.minimum(wanted, shape.tor_count)), internet),
        placed,
        int(topology.tables[:, 2].max()),
    )
    return Trace(
        demands=demands,
        typical=np.where(who.born == 0, traffic, 0.0),
        rates=churn.rates(rng, profile, mean, who),
        packet_bits=rng.uniform(*profile.packet_bytes, len(traffic)) * 8,
        dips=dips,
    )


def traffic_shares(profile: Profile) -> Floats:
    """Return every VIP's share of the bytes: quantiles of the byte CDF, so the same for every seed.

    A power law leads from the largest VIP to the first point of the CDF; then the cumulative share grows
    with the logarithm of the rank, from point to point and to the last VIP. Points that are fewer
    than `HEAD_LEAST` VIPs away from the largest are skipped.
    """
    ranks = np.arange(1, profile.vips + 1)
    points = {round(share * profile.vips): done for share, done in profile.byte_cdf}
    points = {at: done for at, done in points.items() if HEAD_LEAST <= at < profile.vips}
    points[profile.vips] = 1.0
    cumulative = np.interp(np.log(ranks), np.log(list(points)), list(points.values()))
    head = min(points)
    shares = np.diff(cumulative, prepend=0.0)
    shares[:head] = _power_law(head, profile.largest_share, float(cumulative[head - 1]))
    return np.asarray(shares / shares.sum(), np.float64)


def _power_law(count: int, largest: float, total: float) -> Floats:
    """Return `count` shares of that total, of which the first is the largest, falling as a power of the rank.

    As even as can be where the largest is too small to reach the total, or alone larger than it.
    """
    if count * largest <= total or largest >= total:
        return np.full(count, total / count)
    log_rank = np.log(np.arange(1, count + 1))
    low, high = 0.0, 50.0
    for _ in range(80):
        exponent = (low + high) / 2
        if largest * np.exp(-exponent * log_rank).sum() > total:
            low = exponent
        else:
            high = exponent
    return np.asarray(largest * np.exp(-low * log_rank), np.float64)


class _Homes:
    """The containers each VIP lives in, and racks drawn from them."""

    def __init__(
        self, rng: np.random.Generator, profile: Profile, racks: NDArray[np.int64], shape: FatTreeShape
    ) -> None:
        self.rng, self.shape, self.near = rng, shape, profile.sources_near
        vips, boxes = len(racks), shape.containers
        count = np.clip(-(-racks // profile.home_racks), 1, boxes)
        popularity = -profile.home_zipf * np.log(rng.permutation(boxes) + 1.0)
        # The largest keys are a draw without replacement by popularity.
        order = np.argsort(-(popularity + rng.gumbel(size=(vips, boxes))), axis=1)
        chosen = np.empty((vips, boxes), bool)
        np.put_along_axis(chosen, order, np.arange(boxes) < count[:, None], axis=1)
        weight = rng.gamma(profile.home_spread, size=(vips, boxes)) * chosen
        self.weight: Floats = weight / weight.sum(axis=1, keepdims=True)
        self.racks = racks

    def dips(self, counts: NDArray[np.int64]) -> Racks:
        """Put each VIP's DIPs on racks of its homes, evenly over its racks."""
        start, tors = self._draw(self.racks)
        owner = np.repeat(np.arange(len(counts)), np.diff(start))
        base, more = np.divmod(counts, np.diff(start))
        position = np.arange(start[-1]) - start[owner]
        return start, tors, (base[owner] + (position < more[owner])).astype(np.int64)

    def sources(self, counts: NDArray[np.int64]) -> Racks:
        """Draw source ToRs: the near ones from the homes, the others from everywhere."""
        near = self.rng.binomial(counts, self.near) if self.near else np.zeros_like(counts)
        start, tors = self._draw(near)
        owner = np.repeat(np.arange(len(counts)), np.diff(start))
        far_owner, far = self._anywhere(counts - near)
        total = self.shape.tor_count
        pairs, times = np.unique(
            np.concatenate((owner, far_owner)) * total + np.concatenate((tors, far)), return_counts=True
        )
        return (
            _starts(np.bincount(pairs // total, minlength=len(counts))),
            (pairs % total).astype(np.int32),
            times,
        )

    def _draw(self, racks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Draw distinct ToRs: shared out over the homes by weight, at random within each."""
        shape = self.shape
        quota = _shared_out(self.weight, racks, shape.tors)
        vip, box = np.nonzero(quota)
        wanted = quota[vip, box]
        found = []
        for block in np.array_split(np.arange(len(vip)), max(1, len(vip) // 20_000)):
            order = np.argsort(self.rng.random((len(block), shape.tors)), axis=1)
            row, rank = np.nonzero(np.arange(shape.tors) < wanted[block, None])
            found.append(box[block][row] * shape.tors + order[row, rank])
        tors = np.concatenate(found).astype(np.int32) if found else np.zeros(0, np.int32)
        return _starts(quota.sum(axis=1)), tors

    def _anywhere(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        total = self.shape.tor_count
        many = np.flatnonzero(counts > total // 20)
        owners = [np.repeat(many, counts[many])]
        drawn = [self.rng.permutation(total)[: counts[vip]] for vip in many.tolist()]
        few = np.where(counts > total // 20, 0, counts)
        owners.append(np.repeat(np.arange(len(counts)), few))
        drawn.append(self.rng.integers(0, total, int(few.sum())))
        return np.concatenate(owners), np.concatenate(drawn)


def _shared_out(weight: Floats, counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Split each count by the weights of its row, at most `most` each; what that leaves over goes to
    other columns.
    """
    exact = weight * counts[:, None]
    quota = np.minimum(np.floor(exact), most).astype(np.int64)
    order = np.argsort(quota - exact, axis=1)  # The largest remainders first.
    while True:
        missing = counts - quota.sum(axis=1)
        if not missing.any():
            return quota
        room = quota < most
        own = room & (weight > 0)
        room = np.where(own.any(axis=1, keepdims=True), own, room)
        room = np.take_along_axis(room, order, axis=1)
        rows, at = np.nonzero(room & (np.cumsum(room, axis=1) <= missing[:, None]))
        quota[rows, order[rows, at]] += 1


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


def _weighted(
    rng: np.random.Generator, racks: Racks, internet: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Give source ToRs exponential weights."""
    start, tors, times = racks
    weights = rng.exponential(1.0, len(tors)) * times + 0.1
    owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
    sums = np.bincount(owner, weights=weights, minlength=len(start) - 1)
    return start, tors, weights / sums[owner] * (1 - internet)[owner]


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


__all__ = ["Trace", "columns", "generate", "traffic_shares"]
