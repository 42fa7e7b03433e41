"""Which DIPs are believed to be down.

Checks may be wrong together: a switch between checkers and DIPs, or what all checkers have in common, may be
what failed. So when more than half of the DIPs of a check look down at once, those that came last stay in
service, and are believed to be down only once that has lasted. Evidence that is none of a check is believed
at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from duet_p4.model import VIP_CHECK, Checked, Vip

AT_ONCE_S = 10.0
"""What happens within this time happened at once."""

DOUBT_S = 30.0
"""How long DIPs that are suspected to look down only are kept."""


@dataclass
class _Doubts:
    taken: deque[tuple[float, IPv4Address]] = field(default_factory=deque)
    suspected: dict[IPv4Address, float] = field(default_factory=dict)


class HealthJudge:
    """Decides, check by check, which reports are believed. It asks `clock` for seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._doubts: dict[tuple[IPv4Address, str], _Doubts] = {}

    def judge(
        self,
        spec: Vip,
        down: frozenset[Checked],
        told: Mapping[IPv4Address, bool],
        *,
        certain: bool,
        check: str = VIP_CHECK,
    ) -> tuple[dict[Checked, bool], set[IPv4Address]]:
        """Return which DIPs are down or up from now on where that is new, and those that are newly suspected.

        `down` are those that are down already, `told` says of some whether they are up by a `check`.
        """
        now = self._clock()
        doubts = self._doubts.setdefault((spec.address, check), _Doubts())
        while doubts.taken and doubts.taken[0][0] < now - AT_ONCE_S:
            doubts.taken.popleft()
        stated = spec.by_check().get(check, set())
        changes: dict[Checked, bool] = {}
        for dip, up in told.items():
            if up:
                doubts.suspected.pop(dip, None)
                if Checked(dip, check) in down:
                    changes[Checked(dip, check)] = False
        new = {d for d, up in told.items() if not up and d in stated and Checked(d, check) not in down}
        recent = {dip for _, dip in doubts.taken} - {dip for dip, up in told.items() if up}
        suspicious = not certain and len(new | recent) > 1 and 2 * len(new | recent) > len(stated)
        suspected: set[IPv4Address] = set()
        for dip in sorted(new):
            if suspicious:
                suspected |= {dip} - doubts.suspected.keys()
                doubts.suspected.setdefault(dip, now)
            else:
                changes[Checked(dip, check)] = True
                doubts.suspected.pop(dip, None)
                doubts.taken.append((now, dip))
        if not doubts.taken and not doubts.suspected:
            del self._doubts[spec.address, check]
        return changes, suspected

    def suspected(self, vip: IPv4Address) -> set[IPv4Address]:
        """Return the DIPs of a VIP that look down and are kept."""
        return {
            dip for (known, _), doubts in self._doubts.items() if known == vip for dip in doubts.suspected
        }

    def confirmed(self) -> dict[tuple[IPv4Address, str], set[IPv4Address]]:
        """Return, by VIP and check, the DIPs that have looked down for so long that it is believed."""
        before = self._clock() - DOUBT_S
        found = {
            asked: {dip for dip, since in doubts.suspected.items() if since <= before}
            for asked, doubts in self._doubts.items()
        }
        return {asked: dips for asked, dips in found.items() if dips}

    def forget(self, vip: IPv4Address, but: Collection[str] = ()) -> None:
        """Forget a VIP that is wanted no more, or all its checks `but` some."""
        for asked in [(known, check) for known, check in self._doubts if known == vip and check not in but]:
            del self._doubts[asked]
