"""Whether neighbours forward, by BFD's echo function (RFC 5880, 6.4; RFC 5881).

A switch that hangs with its ports up takes frames and sends none on; no carrier tells. So every 50 ms a
packet to the switch itself goes out by each port to another router, which sends it back as it forwards
anything else, through all of its tables: no process of the neighbour's has a part in it, and of this switch
only the one that asks. `hostif` notes what came back.

A busy machine is no reason to lead traffic elsewhere. So an echo counts as missed only
- once it has had its time, by the clock of the process that sent it;
- of a port by which echoes came before, since it last had carrier;
- while one sent with it by another port is back: what delays this switch delays both, and those in doubt
  go first.
The last also means that a switch gives up no port unless another one works.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from duet_p4.checksum import checksum
from duet_p4.switch_agent.config import EchoConfig, PortConfig
from duet_p4.switch_agent.ports import Damping

logger = logging.getLogger(__name__)

_PORT = 3785
_TTL = 255
_HEADER = 20
_NEW, _SELDOM = 60, 20
"""By a port by which no echo came in its first 60 rounds (an SMux does not forward) one goes in each 20."""


@dataclass
class _Port:
    """What is known of one port: whether an echo is under way, what became of those before."""

    sent: bool = False
    heard: bool = False
    rounds: int = 0
    misses: int = 0
    silent: bool = False
    well_since: float | None = None
    damping: Damping = field(default_factory=Damping)


class Liveness:
    """Which ports lead to a neighbour that forwards, from which echoes came back. Reads no clock."""

    def __init__(self, ports: Mapping[int, bool], fall: int, rise_s: float) -> None:
        """Take the ports' numbers, and which have carrier.

        `fall` misses one after the other silence a port; `rise_s` seconds without a miss end that, more where
        it flaps.
        """
        self._fall = fall
        self._rise_s = rise_s
        self._ports = {number: _Port() for number, up in ports.items() if up}
        self._rounds = 0

    def carrier_changed(self, number: int, up: bool) -> None:
        """Note that a link went up or down; what was known of it is forgotten."""
        self._ports.pop(number, None)
        if up:
            self._ports[number] = _Port()

    def due(self) -> list[int]:
        """Return the ports by which to send an echo in this round, in this order."""
        self._rounds += 1
        seldom = self._rounds % _SELDOM == 0
        # The first are on their way before the kernel puts anything off.
        chosen = []
        for number, port in self._ports.items():
            port.rounds += 1
            if port.heard or port.rounds <= _NEW or seldom:
                chosen.append((not port.misses, number))
        return [number for _, number in sorted(chosen)]

    def sent(self, number: int) -> None:
        """Note that an echo left by a port."""
        self._ports[number].sent = True

    def answered(self, came: Callable[[int], bool], now_s: float) -> dict[int, bool]:
        """Note of which ports the last echo came back, once all have had their time.

        Returns the ports that became silent (True), or are so no longer.
        """
        back = {number for number, port in self._ports.items() if port.sent and came(number)}
        changed = {}
        for number, port in self._ports.items():
            if port.sent and self._note(port, number in back, bool(back), now_s):
                changed[number] = port.silent
        return changed

    def doubtful(self) -> bool:
        """Whether a port that is not silent has missed an echo, and another one is under way."""
        return any(port.sent and port.misses and not port.silent for port in self._ports.values())

    def _note(self, port: _Port, came: bool, witnessed: bool, now_s: float) -> bool:
        """Note what became of a port's echo; return whether that decides something."""
        port.sent = False
        if came:
            port.heard, port.misses = True, 0
            if not port.silent:
                return False
            if port.well_since is None:
                port.well_since = now_s
            if now_s - port.well_since < max(self._rise_s, port.damping.wait_s()):
                return False
            port.silent, port.well_since = False, None
            return True
        port.well_since = None
        if port.silent or not (port.heard and witnessed):
            return False
        port.misses += 1
        if port.misses < self._fall:
            return False
        port.silent = True
        port.damping.went_down(now_s)
        return True


class Echo:
    """Sends echoes by a switch's ports while `run` runs."""

    def __init__(
        self,
        config: EchoConfig,
        address: IPv4Address,
        ports: Mapping[int, PortConfig],
        peer_mac: Callable[[int], int | None],
        send: Callable[[int, bytes], None],
        echoes: memoryview,
        on_change: Callable[[int, bool], None],
    ) -> None:
        """Take the ports to routers by number.

        `address` is the switch's own, `peer_mac` gives the Ethernet address at the other end of a port
        where it is known, `send` sends a frame by a port or raises OSError, `echoes` has the token of the
        last echo that came back, by port number. `on_change` is called with a port and whether it is silent.
        """
        self._config = config
        self._headers = {number: _headers(address, port) for number, port in ports.items()}
        self._peer_mac = peer_mac
        self._send = send
        self._echoes = echoes
        self._on_change = on_change
        self._liveness = Liveness(dict.fromkeys(ports, False), config.fall, config.rise_ms / 1000)
        self._token = 0

    def carrier_changed(self, number: int, up: bool) -> None:
        """Note that a link went up or down: of a new one nothing is known."""
        if number in self._headers:
            self._liveness.carrier_changed(number, up)

    async def run(self) -> None:
        """Send echoes, and say which ports are silent, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            self._send_round()
            doubtful = self._liveness.doubtful()
            await asyncio.sleep((self._config.hurry_ms if doubtful else self._config.interval_ms) / 1000)
            changed = self._liveness.answered(lambda number: self._echoes[number] == self._token, now())
            for number, silent in changed.items():
                logger.warning("port %d: the neighbour %s", number, _said(silent))
                self._on_change(number, silent)

    def _send_round(self) -> None:
        self._token = secrets.randbits(64)
        payload = self._token.to_bytes(8, "little")
        for number in self._liveness.due():
            mac = self._peer_mac(number)
            if mac is None:
                continue
            try:
                self._send(number, mac.to_bytes(6) + self._headers[number] + payload)
            except OSError as error:
                logger.debug("no echo by port %d: %s", number, error)
            else:
                self._liveness.sent(number)


def _headers(address: IPv4Address, port: PortConfig) -> bytes:
    """Return an echo without its destination's Ethernet address and its token."""
    udp = _PORT.to_bytes(2) * 2 + (16).to_bytes(2) + bytes(2)
    ip = bytes((0x45, 0)) + (_HEADER + 16).to_bytes(2) + bytes(4) + bytes((_TTL, 17, 0, 0))
    ip += address.packed + port.address.ip.packed
    ip = ip[:10] + checksum(ip).to_bytes(2) + ip[12:]
    return bytes.fromhex(port.mac.replace(":", "")) + b"\x08\x00" + ip + udp


def _said(silent: bool) -> str:
    return "forwards nothing: leading around it" if silent else "forwards again"
