"""The one flow hash: CRC-32 of the 5-tuple, the same in P4, in eBPF C and here.

A VIP's slot is `flow_hash(flow) mod slots`. CRC is linear over GF(2): a seed fed into it only XORs
the result with a constant, so two stages would still pick in step. `mix` therefore scrambles the CRC
with multiplications before it is used a second time, by a TIP's slots or by the underlay's ECMP.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address

TIP_SEED = 0x5EED_0719
"""What a TIP's slots XOR into the flow hash before `mix`. hmux.p4 and flow_hash.h hold the same number."""

_MASK = 0xFFFF_FFFF
_MULTIPLIER = 0x045D_9F3B


@dataclass(frozen=True, slots=True)
class Flow:
    """A 5-tuple. ICMP echo puts its identifier in `source_port`; fragments have both ports 0."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int
    destination_port: int


def flow_hash(flow: Flow) -> int:
    """Return the CRC-32 (zlib) of the flow in network byte order, 32 bits."""
    packed = struct.pack(
        "!IIBHH",
        int(flow.source),
        int(flow.destination),
        flow.protocol,
        flow.source_port,
        flow.destination_port,
    )
    return zlib.crc32(packed)


def mix(value: int) -> int:
    """Scramble 32 bits so that every output bit depends on every input bit, non-linearly."""
    value ^= value >> 16
    value = value * _MULTIPLIER & _MASK
    value ^= value >> 16
    value = value * _MULTIPLIER & _MASK
    return value ^ value >> 16


def tip_hash(flow: Flow) -> int:
    """Return the hash that picks a TIP's slot: independent of the one that picked the TIP."""
    return mix(flow_hash(flow) ^ TIP_SEED)


def underlay_hash(flow: Flow, switch_seed: int) -> int:
    """Return the hash that picks among equal next hops on the switch with this seed."""
    return mix(flow_hash(flow) ^ switch_seed)
