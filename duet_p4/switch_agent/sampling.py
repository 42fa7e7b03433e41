"""What samples of a P4 switch's frames say of flows: those that it has tunneled, by their tunnels."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import grpc

from duet_p4.flow_hash import Flow
from duet_p4.flows.cache import Sample, booted_at

logger = logging.getLogger(__name__)

METHOD = "/duet.v1.Samples/Follow"
"""Of the xdp switch; BMv2 has none."""

_RECORD = struct.Struct("=QII62s2x")
_IP = struct.Struct("!BBHHHBBH4s4s")
_ETHERNET, _TUNNEL = 14, 20
_IP_IN_IP, _ICMP, _PORTED = 4, 1, frozenset({6, 17})
_RETRY_S = 2.0


def samples_of(message: bytes, mux: IPv4Address) -> Iterator[Sample]:
    """Yield the flows of the frames in a message that a mux with this address has tunneled."""
    booted = booted_at()
    for ns, _, length, head in _RECORD.iter_unpack(message):
        outer = _IP.unpack_from(head, _ETHERNET)
        if head[12:14] != b"\x08\x00" or outer[0] != 0x45 or outer[6] != _IP_IN_IP or outer[8] != mux.packed:
            continue
        inner = _IP.unpack_from(head, _ETHERNET + _TUNNEL)
        protocol, options, later = inner[6], inner[0] != 0x45, inner[4] & 0x1FFF
        ports = head[_ETHERNET + 2 * _TUNNEL :]
        source_port = port = 0
        if protocol in _PORTED and not options and not later:
            source_port, port = struct.unpack_from("!HH", ports)
        elif protocol == _ICMP and not options and not later:
            (source_port,) = struct.unpack_from("!H", ports, 4)
        flow = Flow(IPv4Address(inner[8]), IPv4Address(inner[9]), protocol, source_port, port)
        # As the frame came: without the tunnel.
        yield Sample(flow, IPv4Address(outer[9]), length - _TUNNEL, booted + ns / 1e9)


class Sampling:
    """Follows the samples of a switch; `connect` opens a channel to it."""

    def __init__(self, mux: IPv4Address, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._mux = mux
        self._connect = connect
        self._found: list[Sample] = []

    def poll(self) -> list[Sample]:
        """Return the samples since the last call."""
        found, self._found = self._found, []
        return found

    async def run(self) -> None:
        """Follow until cancelled, or until the switch says that it samples nothing."""
        while True:
            try:
                async with self._connect() as channel:
                    async for message in channel.unary_stream(METHOD, None, None)(b""):
                        self._found += samples_of(message, self._mux)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    logger.info("the switch samples no frames: no flows are recorded")
                    return
            await asyncio.sleep(_RETRY_S)
