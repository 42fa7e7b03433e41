"""How the VIPs of a trace come and go: lives and ON/OFF times with heavy tails, drift and bursts.

A VIP that dies is replaced by another of the same mean traffic: same rank, other address, DIPs and
sources. Times are Lomax-distributed; what is left of one when the trace begins is drawn from its
equilibrium, so the trace begins in the middle of things.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine.topology import Floats
from controller.simulation.profile import Profile

INTERVAL_S = 600
"""The paper's trace has a rate per VIP for every 10 minutes."""


@dataclass(frozen=True, eq=False)
class Lives:
    """Every VIP that ever lives, those of the first interval first: its rank and its intervals [born,
    dead).
    """

    rank: NDArray[np.int64]
    born: NDArray[np.int64]
    dead: NDArray[np.int64]


def lomax(
    rng: np.random.Generator, tail: float, mean: float, count: int, *, residual: bool = False
) -> Floats:
    """Draw heavy-tailed times of that mean; `residual`: what is left of those that run at a random moment."""
    scale = mean * (tail - 1)
    exponent = tail - 1 if residual else tail
    drawn: Floats = scale * (rng.random(count) ** (-1 / exponent) - 1)
    return drawn


def lives(rng: np.random.Generator, profile: Profile) -> Lives:
    """Draw who lives when; without deaths, everybody all the time."""
    count, end = profile.vips, profile.intervals
    rank = [np.arange(count)]
    born = [np.zeros(count, np.int64)]
    if not profile.life_hours:
        return Lives(rank[0], born[0], np.full(count, end))
    mean = profile.life_hours * 3600 / INTERVAL_S
    until = lomax(rng, profile.tail, mean, count, residual=True)
    dead = [np.ceil(np.minimum(until, end)).astype(np.int64).clip(1)]
    while True:
        follows = dead[-1] < end
        if not follows.any():
            break
        rank.append(rank[-1][follows])
        born.append(dead[-1][follows])
        until = born[-1] + lomax(rng, profile.tail, mean, int(follows.sum())).clip(1)
        dead.append(np.ceil(np.minimum(until, end)).astype(np.int64))
    return Lives(np.concatenate(rank), np.concatenate(born), np.concatenate(dead))


def rates(rng: np.random.Generator, profile: Profile, mean: Floats, who: Lives) -> Floats:
    """Return the rate of every VIP in every interval, bit/s; `mean` is that of its rank.

    Log traffic drifts around the mean and bursts now and then; what is off or not alive is 0. The sum is
    that of the means, with a swing; no VIP ever has more than the largest one's share of it.
    """
    count = len(who.rank)
    level = rng.standard_normal(count) * _spread(profile)
    left = np.zeros(count)
    on = _Switching(rng, profile, count)
    found = np.empty((profile.intervals, count))
    for interval in range(profile.intervals):
        starting = rng.random(count) < profile.burst_chance
        length = rng.geometric(min(1.0, 1 / profile.burst_length), count)
        left = np.where(starting, length, np.maximum(left - 1, 0))
        alive = (who.born <= interval) & (interval < who.dead) & on.now
        burst = np.where(left > 0, profile.burst_factor, 1.0)
        now = np.where(alive, mean[who.rank] * np.exp(level) * burst, 0.0)
        phase = 2 * np.pi * interval / profile.intervals
        found[interval] = (
            capped(now, mean.max() / mean.sum()) * mean.sum() * (1 + profile.swing * np.sin(phase))
        )
        level = (1 - profile.reversion) * level + profile.drift * rng.standard_normal(count)
        on.advance()
    return found


def capped(weights: Floats, most: float) -> Floats:
    """Normalize to shares of which none exceeds `most`: the excess goes to the rest in proportion.

    Equal shares where there are too few weights for that.
    """
    some = weights > 0
    if not some.any() or most * some.sum() <= 1:
        return np.asarray(some / max(1, some.sum()), np.float64)
    shares: Floats = weights / weights.sum()
    for _ in range(100):
        over = shares >= most * (1 - 1e-12)
        free = shares[~over].sum()
        shares = np.where(over, most, shares * ((1 - most * over.sum()) / free))
        if shares.max() <= most * (1 + 1e-9):
            break
    return shares


def _spread(profile: Profile) -> float:
    return profile.drift / float(np.sqrt(1 - (1 - profile.reversion) ** 2)) if profile.reversion else 0.0


class _Switching:
    """ON/OFF of every VIP, seen at the beginning of each interval."""

    def __init__(self, rng: np.random.Generator, profile: Profile, count: int) -> None:
        self.rng, self.tail = rng, profile.tail
        self.now: NDArray[np.bool_] = np.ones(count, bool)
        self.always = not profile.on_hours or profile.on_share == 1
        if self.always:
            return
        on = profile.on_hours * 3600 / INTERVAL_S
        self.means = np.array([on * (1 - profile.on_share) / profile.on_share, on])
        self.now = rng.random(count) < profile.on_share
        self.left = lomax(rng, self.tail, 1.0, count, residual=True) * self.means[self.now.astype(int)]

    def advance(self) -> None:
        if self.always:
            return
        self.left -= 1
        over = np.flatnonzero(self.left <= 0)
        while over.size:
            self.now[over] = ~self.now[over]
            drawn = lomax(self.rng, self.tail, 1.0, over.size)
            self.left[over] += drawn * self.means[self.now[over].astype(int)]
            over = over[self.left[over] <= 0]


__all__ = ["INTERVAL_S", "Lives", "capped", "lives", "lomax", "rates"]
