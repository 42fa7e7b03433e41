"""Flow records as IPFIX messages (RFC 7011): one template, its information elements those of IANA's registry.

The DIP is the destination after the tunnel or NAT, as postNATDestinationIPv4Address says it; what it answers
is in RFC 5103's elements of the reverse direction; how packets were sampled is samplingPacketInterval of each
record.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from duet_p4.api.flows import FlowRecord

VERSION = 10
TEMPLATE_SET = 2
TEMPLATE = 256
PORT = 4739
"""IANA's, of collectors."""
MESSAGE_BYTES = 1400
"""What fits into a datagram of an Ethernet."""

_HEADER = struct.Struct("!HHIII")
_SET = struct.Struct("!HH")

Encode = Callable[[FlowRecord], bytes]

_ENTERPRISE = 0x8000
"""Set in an element's number that is an enterprise's, which follows its size."""
_REVERSE = 29305
"""The enterprise whose elements are IANA's, of the reverse direction."""

ELEMENTS: tuple[tuple[str, int, int, Encode], ...] = (
    ("sourceIPv4Address", 8, 4, lambda r: r.source.packed),
    ("destinationIPv4Address", 12, 4, lambda r: r.destination.packed),
    ("sourceTransportPort", 7, 2, lambda r: r.source_port.to_bytes(2, "big")),
    ("destinationTransportPort", 11, 2, lambda r: r.destination_port.to_bytes(2, "big")),
    ("protocolIdentifier", 4, 1, lambda r: r.protocol.to_bytes(1, "big")),
    ("postNATDestinationIPv4Address", 226, 4, lambda r: r.dip.packed),
    ("packetDeltaCount", 2, 8, lambda r: r.packets.to_bytes(8, "big")),
    ("octetDeltaCount", 1, 8, lambda r: r.bytes.to_bytes(8, "big")),
    ("reversePacketDeltaCount", _ENTERPRISE | 2, 8, lambda r: r.reply_packets.to_bytes(8, "big")),
    ("reverseOctetDeltaCount", _ENTERPRISE | 1, 8, lambda r: r.reply_bytes.to_bytes(8, "big")),
    ("flowStartMilliseconds", 152, 8, lambda r: round(r.first * 1000).to_bytes(8, "big")),
    ("flowEndMilliseconds", 153, 8, lambda r: round(r.last * 1000).to_bytes(8, "big")),
    ("samplingPacketInterval", 305, 4, lambda r: r.sampling.to_bytes(4, "big")),
)
"""Name, number, bytes and value of each information element, in their order."""

RECORD_BYTES = sum(size for _, _, size, _ in ELEMENTS)
_FIELDS = b"".join(
    struct.pack("!HH", number, size) + (struct.pack("!I", _REVERSE) if number & _ENTERPRISE else b"")
    for _, number, size, _ in ELEMENTS
)
_PER_MESSAGE = (MESSAGE_BYTES - _HEADER.size - 2 * _SET.size - 4 - len(_FIELDS)) // RECORD_BYTES


class Exporter:
    """Makes the messages of one observation domain; a template comes with each, so that none need be kept."""

    def __init__(self, domain: int) -> None:
        """`domain` tells exporters with one address apart."""
        self._domain = domain
        self._sequence = 0

    def messages(self, records: Sequence[FlowRecord], now: float) -> Iterator[bytes]:
        """Yield messages with records, as few as there can be."""
        for first in range(0, len(records), _PER_MESSAGE):
            part = records[first : first + _PER_MESSAGE]
            template = struct.pack("!HH", TEMPLATE, len(ELEMENTS)) + _FIELDS
            data = b"".join(encode(record) for record in part for *_, encode in ELEMENTS)
            body = _set(TEMPLATE_SET, template) + _set(TEMPLATE, data)
            length = _HEADER.size + len(body)
            yield _HEADER.pack(VERSION, length, int(now), self._sequence % (1 << 32), self._domain) + body
            self._sequence += len(part)


def _set(number: int, content: bytes) -> bytes:
    return _SET.pack(number, _SET.size + len(content)) + content
