"""Many changes in one request, and what came of each."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address

from pydantic import Field

from duet_p4.api.digest import Digest
from duet_p4.api.problems import Problem
from duet_p4.model import Model

MAX_ENTRIES = 65_536
"""How many addresses a list of one request may have."""


class Change(Model):
    """What a request changed.

    `updates` counts entries written to the data path (0 where all was right already); `timings_ms`
    has a duration for each step of the paper's breakdown (section 7.3): `add_dips`, `add_vip`,
    `announce`, or `withdraw`, `drain`, `delete_vip`, `delete_dips`. Steps that were one request to the
    switch have one time, by their names with a plus between: `add_dips+add_vip`. Changes that were written
    together share their times.
    """

    address: IPv4Address
    announced: bool
    updates: int = Field(ge=0)
    timings_ms: dict[str, float]


class Action(StrEnum):
    """What is done to an address, in the order in which one request's changes are carried out."""

    WITHDRAW = "withdraw"
    DELETE = "delete"
    PUT = "put"
    ANNOUNCE = "announce"


class Result(Model):
    """What came of one change of a request: the change, or the problem that was in its way."""

    address: IPv4Address
    action: Action
    change: Change | None = None
    problem: Problem | None = None


class Changed(Model):
    """What came of a request, change by change, and what the device holds now."""

    results: tuple[Result, ...]
    digest: Digest

    def problems(self) -> list[Result]:
        """Return the results of what failed."""
        return [result for result in self.results if result.problem is not None]


def addresses_text(addresses: Iterable[IPv4Address]) -> bytes:
    """Return addresses as the JSON of a list's elements."""
    return ",".join(f'"{address}"' for address in addresses).encode()


def check_once(what: str, addresses: Iterable[IPv4Address]) -> None:
    """Raise ValueError where an address is listed twice."""
    seen: set[IPv4Address] = set()
    for address in addresses:
        if address in seen:
            raise ValueError(f"{what}: {address} is listed twice")
        seen.add(address)
