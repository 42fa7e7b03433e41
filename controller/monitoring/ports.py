"""Which servers nothing can be sent to, as the switches before them say: positive evidence, not silence."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from controller.inventory import Inventory
from duet_p4.api.ports import HostPort

PATIENCE_S = 5.0
"""How long a port may be without an adjacency, which it never had, before its servers count as cut off."""


class HostPorts:
    """What switches said last of their ports to hosts."""

    def __init__(self, inventory: Inventory) -> None:
        self._ports: dict[str, dict[int, HostPort]] = {}
        self._once: set[tuple[str, int]] = set()
        self.adopt(inventory)

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory."""
        self._servers: dict[str, list[tuple[str, int]]] = {}
        for server in inventory.servers:
            if server.dips:
                self._servers.setdefault(server.switch, []).append((server.name, int(server.dips[0])))
        self._ports = {switch: ports for switch, ports in self._ports.items() if switch in self._servers}

    def switches(self) -> list[str]:
        """Return the switches with servers behind them."""
        return sorted(self._servers)

    def note(self, switch: str, ports: Iterable[HostPort]) -> None:
        """Take in what a switch says; of one with no servers behind it that is nothing."""
        if switch not in self._servers:
            return
        self._ports[switch] = {port.port: port for port in ports}
        self._once |= {(switch, n) for n, port in self._ports[switch].items() if _up(port)}

    def cut_off(self, dead: Collection[str]) -> set[str]:
        """Return the servers that nothing can be sent to; `dead` switches carry nothing.

        Of a switch that does not tell any more, what it told last holds.
        """
        found = {name for switch in dead for name, _ in self._servers.get(switch, ())}
        for switch, ports in self._ports.items():
            for number, port in ports.items():
                if _up(port) or not self._believed(switch, number, port):
                    continue
                ranges = [(int(p.network_address), int(p.broadcast_address)) for p in port.prefixes]
                found |= {
                    name
                    for name, address in self._servers[switch]
                    if any(first <= address <= last for first, last in ranges)
                }
        return found

    def unheard(self, dead: Collection[str]) -> set[str]:
        """Return the servers of which no switch has told anything yet, though theirs is not `dead`."""
        silent = self._servers.keys() - self._ports.keys() - set(dead)
        return {name for switch in silent for name, _ in self._servers[switch]}

    def _believed(self, switch: str, number: int, port: HostPort) -> bool:
        return (switch, number) in self._once or time.time() - port.since > PATIENCE_S


def _up(port: HostPort) -> bool:
    return port.carrier and port.adjacency
