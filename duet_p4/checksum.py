"""The checksum of IPv4, ICMP and UDP headers (RFC 1071)."""

from __future__ import annotations

import struct


def checksum(data: bytes) -> int:
    """Return the ones' complement of the ones' complement sum of 16-bit words, in network byte order.

    Data of an odd length counts as if a zero byte followed.
    """
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
