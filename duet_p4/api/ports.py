"""What switches know of their ports: whether what hangs there can be reached at all."""

from __future__ import annotations

from ipaddress import IPv4Network

from duet_p4.model import Model


class HostPort(Model):
    """A port with hosts behind it, which do not speak BGP.

    `prefixes` are the hosts' addresses. `carrier` says that the cable is in, `adjacency` that the host
    answers there, too: without it nothing can be sent to it. `since` is the Unix time of the last change.
    """

    port: int
    name: str
    prefixes: tuple[IPv4Network, ...]
    carrier: bool
    adjacency: bool
    since: float


class NeighbourPort(Model):
    """A port to a switch or an SMux, by the neighbour's name.

    It is `alive` while the cable is in, and (of a switch) the neighbour forwards what it is sent.
    """

    neighbour: str
    alive: bool


class Punted(Model):
    """What a port has sent towards a switch's CPU of one `kind`: how many packets passed, and were dropped.

    Dropped are those above the port's share of the kind, and all that are `unwanted`: no part of a
    protocol that the switch speaks there.
    """

    port: str
    kind: str
    passed: int
    dropped: int


class PortReport(Model):
    """The ports of one switch, as it posts them to monitoring."""

    switch: str
    ports: tuple[HostPort, ...]
    neighbours: tuple[NeighbourPort, ...] = ()
