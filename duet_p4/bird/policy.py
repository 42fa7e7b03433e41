"""What BGP neighbours may announce, and what they are told: data, and its rendering as BIRD's functions.

Which policy a neighbour has is for who builds the network to say; a testbed's are in
`mininet_topos.testbed.routing`. What a policy allows can be asked of a BIRD that runs: `birdc eval
'behind_NAME(10.0.0.1/32)'`.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Self

from pydantic import Field, model_validator

from duet_p4.model import Model

GRACEFUL_SHUTDOWN = "(65535, 0)"
"""RFC 8326: whoever announces with it is about to go; anything else is better."""

ORIGIN_AS = 64_900
"""The first half of the communities that say what a prefix is."""


class PrefixRange(Model):
    """Prefixes inside `network` whose length lies in [`shortest`, `longest`]."""

    network: IPv4Network
    shortest: int = Field(ge=0, le=32)
    longest: int = Field(ge=0, le=32)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.network.prefixlen <= self.shortest <= self.longest:
            raise ValueError(
                f"prefixes of {self.network} cannot have lengths {self.shortest} to {self.longest}"
            )
        return self

    @classmethod
    def exactly(cls, network: IPv4Network, length: int | None = None) -> Self:
        """Return the range of a network alone, or of all its prefixes of one length."""
        length = network.prefixlen if length is None else length
        return cls(network=network, shortest=length, longest=length)

    def covers(self, prefix: IPv4Network) -> bool:
        """Return whether a prefix is in the range."""
        return self.shortest <= prefix.prefixlen <= self.longest and prefix.subnet_of(self.network)


class Origin(Model):
    """A kind of prefixes; whoever originates one adds the community 64900:`value`, which says so."""

    value: int = Field(ge=1, le=65_535)
    ranges: tuple[PrefixRange, ...] = Field(min_length=1)


class Policy(Model):
    """One neighbour's. Without restrictions it is one of our own that is above, or a node in a test.

    `behind` is what the neighbour may announce: itself and what hangs below it (None: all of the address
    space). What is `beyond` it, elsewhere in the fabric, is taken as a detour only, with at least
    `beyond_hops` ASes in its path: more than the straight way has, so that it attracts nothing while that
    is there, whatever the neighbour says. `told` is what it is told (None: everything). Of what it may
    announce, at most `limit` prefixes are taken. A `foreign` neighbour is another network: our communities
    are neither told nor believed.
    """

    behind: tuple[PrefixRange, ...] | None = None
    beyond: tuple[PrefixRange, ...] = ()
    beyond_hops: int = Field(default=0, ge=0, le=32)
    told: tuple[PrefixRange, ...] | None = None
    limit: int = Field(default=40_000, ge=1)
    foreign: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.beyond and not self.beyond_hops:
            raise ValueError("a detour without a length would be as good as the straight way")
        return self


def ranges(prefixes: Iterable[PrefixRange]) -> str:
    """Return BIRD's text of a prefix set."""
    return ", ".join(f"{r.network}{{{r.shortest},{r.longest}}}" for r in prefixes)


def functions(name: str, policy: Policy) -> list[str]:
    """Return the functions of a neighbour's policy: `behind_NAME`, `beyond_NAME`, `told_NAME` of a prefix."""

    def function(what: str, allowed: Iterable[PrefixRange] | None) -> str:
        listed = "SPACE" if allowed is None else f"[ {ranges(allowed)} ]"
        body = f"p ~ SPACE && p ~ {listed}" if allowed is None or tuple(allowed) else "false"
        return f"function {what}_{name}(prefix p) {{ return {body}; }}"

    return [
        function("behind", policy.behind),
        function("beyond", policy.beyond),
        function("told", policy.told),
    ]
