"""What the switch's configuration means for its P4 tables: its own numbers, and what each port takes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from finsy import P4MeterEntry, P4TableEntry

from duet_p4.hmux import entries
from duet_p4.hmux.entries import PortKind
from duet_p4.switch_agent.config import PortConfig, SwitchConfig

ICMP_ERRORS_PER_SECOND, ICMP_ERROR_BURST = 100, 50
"""What a port's senders may cause (RFC 1812, 4.3.2.8)."""


def admission(config: SwitchConfig, *, answers: bool = True) -> Iterator[P4TableEntry | P4MeterEntry]:
    """Yield the entries that hold as long as the configuration does.

    Behind a port with prefixes are hosts, which send as themselves or, in answers, as a VIP. From outside may
    come what is none of ours. Neither sends tunnels. A switch that `answers` sends ICMP errors, not too many.
    """
    yield entries.configuration(config.address, config.seed, config.flow_key, config.fragment_mux)
    yield entries.punt()
    for port in config.ports:
        if answers:
            yield entries.icmp_error_limit(port.number, ICMP_ERRORS_PER_SECOND, ICMP_ERROR_BURST)
        guarded = port.prefixes or port.outside
        yield entries.port(port.number, port.mac, PortKind.HOST if guarded else PortKind.FABRIC)
        if guarded:
            for prefix in sources(port, config):
                yield entries.source(port.number, prefix)


def sources(port: PortConfig, config: SwitchConfig) -> tuple[IPv4Network, ...]:
    """Return the prefixes that packets of a guarded port may have as source.

    Of hosts their own and, as they answer, those of VIPs; from outside all that are none of ours.
    """
    if not port.outside:
        return (*port.prefixes, IPv4Network(port.peer), *config.muxes)
    rest = [IPv4Network("0.0.0.0/0")]
    for inside in config.space:
        rest = [part for prefix in rest for part in _without(prefix, inside)]
    return (IPv4Network(port.peer), *sorted(rest))


def _without(prefix: IPv4Network, other: IPv4Network) -> Iterator[IPv4Network]:
    if not prefix.overlaps(other):
        yield prefix
    elif other.subnet_of(prefix):
        yield from prefix.address_exclude(other)
