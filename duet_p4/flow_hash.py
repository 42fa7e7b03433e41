"""The flow hashes, the same in P4 (flow_hash.p4), in eBPF C (bpf/include/flow_hash.h) and here.

Each is made of two words of the 5-tuple: its CRC-32, and the XOR of its addresses and ports. CRC alone does
not do: it is linear over GF(2), so its low bits ignore what consecutive source ports of a client change, and
a seed fed into it only XORs the result with a constant. The sum of the two words is not linear, and `_fold`
brings the carries of all its parts together in every bit. There is no multiplication, so that a switch can
compute it: CRC, one addition, XORs of slices.

| hash | picks |
| --- | --- |
| `flow_hash` | a VIP's slot: `flow_hash(flow) mod slots` |
| `tip_hash` | a TIP's slot, independently of the slot that led to the TIP |
| `underlay_hash` | one of equal next hops, independently of both and of other switches |

`key` is a secret of the deployment, the same in all muxes (0: none): without it nobody can tell which source
ports lead to one DIP. A process that belongs to one deployment states it once (`use_key`).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address

TIP_SEED = 0x5EED_0719
"""What a TIP's slots XOR into the CRC. types.p4 and flow_hash.h hold the same number."""

_MASK = 0xFFFF_FFFF

_of_deployment = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """A 5-tuple. ICMP echo puts its identifier in `source_port`; fragments have both ports 0."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int
    destination_port: int

    @property
    def crc(self) -> int:
        """The CRC-32 (zlib) of the flow in network byte order, 32 bits."""
        packed = struct.pack(
            "!IIBHH",
            int(self.source),
            int(self.destination),
            self.protocol,
            self.source_port,
            self.destination_port,
        )
        return zlib.crc32(packed)

    @property
    def words(self) -> int:
        """The XOR of both addresses and of the ports as one word, 32 bits."""
        return int(self.source) ^ int(self.destination) ^ (self.source_port << 16 | self.destination_port)


def use_key(key: int) -> None:
    """Have this process hash with a key wherever it states no other."""
    global _of_deployment
    _of_deployment = key


def flow_hash(flow: Flow, key: int | None = None) -> int:
    """Return the hash that picks a VIP's slot, 32 bits."""
    return _fold((flow.crc ^ _key(key)) + flow.words & _MASK)


def tip_hash(flow: Flow, key: int | None = None) -> int:
    """Return the hash that picks a TIP's slot, 32 bits."""
    return _fold((flow.crc ^ _key(key) ^ TIP_SEED) + _rotated(flow.words, 11) & _MASK)


def underlay_hash(flow: Flow, switch_seed: int, key: int | None = None) -> int:
    """Return the hash that picks among equal next hops on the switch with this seed, 32 bits."""
    return mix(flow_hash(flow, key), switch_seed)


def mix(value: int, seed: int) -> int:
    """Return a second hash of 32 bits, which says nothing about the first, nor about one with another seed.

    Seeds should differ in many bits, as those that a hash function gives do.
    """
    value ^= seed
    value = value + _rotated(value, 13) & _MASK
    return _fold(value ^ seed)


def _key(stated: int | None) -> int:
    return _of_deployment if stated is None else stated


def _rotated(value: int, left: int) -> int:
    return (value << left | value >> 32 - left) & _MASK


def _fold(value: int) -> int:
    """Bring the parts of a sum together in every bit; no two values have the same result."""
    value ^= value >> 16
    value ^= value >> 9
    return value ^ value >> 5
