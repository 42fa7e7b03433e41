"""Who takes a DIP down: a server by itself, SMuxes by a majority, and nobody by silence."""

from ipaddress import IPv4Address

import pytest

from controller.monitoring.votes import VOTE_S, Votes
from duet_p4.model import Checked

VIP = IPv4Address("10.0.0.1")
DIP = (VIP, Checked(IPv4Address("100.1.1.17")))
OTHER = (VIP, Checked(IPv4Address("100.1.1.17"), "tcp/80"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def votes_of(**said: bool | None) -> Votes:
    votes = Votes(frozenset({"smux1", "smux2", "smux3"}), Clock())
    for reporter, up in said.items():
        votes.note(reporter, {DIP: up})
    return votes


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({}, None),
        ({"server1": None, "smux1": None}, None),
        ({"server1": True}, True),
        ({"server1": False}, False),
        ({"server1": False, "smux1": True, "smux2": True}, False),
        ({"server1": True, "smux1": False}, False),
        ({"smux1": True}, True),
        ({"smux1": False}, False),
        ({"smux1": False, "smux2": True}, True),
        ({"smux1": False, "smux2": True, "smux3": True}, True),
        ({"server1": True, "smux1": False, "smux2": False, "smux3": True}, False),
        ({"smux1": False, "smux2": False, "smux3": None}, False),
    ],
)
def test_verdicts(said: dict[str, bool | None], verdict: bool | None) -> None:
    assert votes_of(**said).verdict(DIP) is verdict


def test_a_vote_that_is_not_repeated_counts_no_more() -> None:
    clock = Clock()
    votes = Votes(frozenset({"smux1"}), clock)
    votes.note("server1", {DIP: False})
    votes.note("smux1", {DIP: True})
    assert votes.verdict(DIP) is False
    clock.now += VOTE_S + 1
    votes.note("smux1", {DIP: True})
    assert votes.verdict(DIP) is True, "the server has been silent for long"
    clock.now += VOTE_S + 1
    assert votes.verdict(DIP) is None


def test_what_is_not_checked_any_more_is_told_once_and_forgotten() -> None:
    votes = votes_of(server1=False)
    assert votes.note("server1", {OTHER: True}) == {DIP, OTHER}
    assert votes.verdict(DIP) is None
    assert votes.note("server1", {OTHER: True}) == {OTHER}
