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


def admission(config: SwitchConfig) -> Iterator[P4TableEntry | P4MeterEntry]:
    """Yield the entries that hold as long as the configuration does.

    Behind a port with prefixes are hosts, which send as themselves or, in answers, as a VIP.
    """
    yield entries.configuration(config.address, config.seed, fragment_mux=config.fragment_mux)
    yield entries.punt()
    for port in config.ports:
        yield entries.icmp_error_limit(port.number, ICMP_ERRORS_PER_SECOND, ICMP_ERROR_BURST)
        yield entries.port(port.number, port.mac, PortKind.HOST if port.prefixes else PortKind.FABRIC)
        if port.prefixes:
            for prefix in sources(port, config.muxes):
                yield entries.source(port.number, prefix)


def sources(port: PortConfig, muxes: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    """Return the prefixes that packets of a port's hosts may have as source."""
    return (*port.prefixes, IPv4Network(port.peer), *muxes)
