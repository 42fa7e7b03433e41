"""An interface whose frames go through the Scapy data path, over a raw socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from duet_p4.smux.scapy_datapath import Result, Verdict

_ALL_PROTOCOLS = 0x0003
_MAX_FRAME = 65_536
_BURST = 64


class RawPort:
    """Reads frames of an interface in the running loop and sends what the data path returns.

    The kernel sees every frame too; it must not forward (`net.ipv4.conf.*.forwarding` off).
    """

    def __init__(self, interface: str, process: Callable[[bytes], Result]) -> None:
        self._process = process
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._socket.bind((interface, _ALL_PROTOCOLS))
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Stop."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        # A bounded burst, so that a flood does not starve REST.
        for _ in range(_BURST):
            try:
                frame, address = self._socket.recvfrom(_MAX_FRAME)
            except BlockingIOError:
                return
            if address[2] == socket.PACKET_OUTGOING:
                continue
            result = self._process(frame)
            if result.verdict is Verdict.SEND:
                self._socket.send(result.frame)
