"""Whether DIPs are up, by the votes of those that check them.

Each SMux has a vote: it asks as clients do, through the tunnel. More than half of those that vote take a DIP
down, so that one which is cut off itself takes nothing down. A server's own "down" is enough, as it asks the
service without a network in between. Who is silent has no vote: that an agent does not answer says nothing of
a DIP.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from duet_p4.model import Checked

VOTE_S = 30.0
"""How long a vote counts that is not repeated."""

Subject = tuple[IPv4Address, Checked]
"""What is voted on: a VIP's DIP, as one of the VIP's checks sees it."""


class Votes:
    """The last words of servers and `smuxes` about every DIP; `clock` gives seconds that only grow."""

    def __init__(self, smuxes: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._smuxes = smuxes
        self._clock = clock
        self._votes: defaultdict[Subject, dict[str, tuple[bool, float]]] = defaultdict(dict)
        self._known: dict[str, frozenset[Subject]] = {}

    def adopt(self, smuxes: frozenset[str]) -> None:
        """Count the votes of other SMuxes from now on; whoever has gone has no vote any more."""
        for gone in self._smuxes - smuxes:
            self.note(gone, {})
        self._smuxes = smuxes

    def note(self, reporter: str, said: Mapping[Subject, bool | None]) -> set[Subject]:
        """Take all that a reporter has to say now; returns what it has said anything of, now or before."""
        now = self._clock()
        before = self._known.get(reporter, frozenset())
        for gone in before - said.keys():
            self._votes[gone].pop(reporter, None)
            if not self._votes[gone]:
                del self._votes[gone]
        for subject, up in said.items():
            if up is not None:
                self._votes[subject][reporter] = (up, now)
        self._known[reporter] = frozenset(said)
        return {*before, *said}

    def verdict(self, subject: Subject) -> bool | None:
        """Return whether a DIP is up; None where nobody says."""
        since = self._clock() - VOTE_S
        votes = {who: up for who, (up, at) in self._votes.get(subject, {}).items() if at >= since}
        if not votes:
            return None
        by_smuxes = [up for who, up in votes.items() if who in self._smuxes]
        if any(not up for who, up in votes.items() if who not in self._smuxes):
            return False
        return not by_smuxes or 2 * by_smuxes.count(False) <= len(by_smuxes)
