"""The VIP file of a testbed (`controller.vipfile`), checked against the testbed's address plan and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import networkx as nx

from controller import vipfile
from controller.records import ON_SMUXES
from controller.vipfile import Document, Place, StatedVip
from duet_p4.model import Dip, Protocol, Vip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed.folder import TestbedError

EXAMPLE = Path(__file__).with_name("vips.yaml")
"""The paper's testbed with every feature; what comes up by default."""

_SAMPLES, _SHARES = 4, 3
_TOLD = 3


class VipFileError(TestbedError):
    """A VIP file that cannot be used; the text names file, line and reason."""


def read(path: Path, graph: nx.Graph) -> list[StatedVip]:
    """Read a VIP file for a testbed. Raises `VipFileError` naming every line that is wrong."""
    try:
        return vipfile.read(path, lambda vips, document: _check(vips, graph, document))
    except vipfile.VipFileError as error:
        raise VipFileError(str(error)) from None


def sample(graph: nx.Graph) -> list[StatedVip]:
    """Return a few VIPs for a testbed of any size: their DIPs far apart, the last of them on the SMuxes."""
    servers = [node for node in fattree.nodes(graph, Kind.SERVER) if node.is_dip and node.prefix]
    found = []
    for number in range(_SAMPLES if servers else 0):
        chosen = {
            servers[(number + share * len(servers) // _SHARES) % len(servers)] for share in range(_SHARES)
        }
        dips = tuple(Dip(address=node.address) for node in sorted(chosen, key=lambda node: node.address))
        vip = Vip(address=addresses.VIPS[1 + number], dips=dips)
        found.append(StatedVip(vip=vip, switch=ON_SMUXES if number == _SAMPLES - 1 else None))
    return found


def parse(text: str, graph: nx.Graph, source: str = "VIP file") -> list[StatedVip]:
    """Read the text of a VIP file; `source` is its name in errors. Raises `VipFileError`."""
    try:
        return vipfile.parse(text, source, lambda vips, document: _check(vips, graph, document))
    except vipfile.VipFileError as error:
        raise VipFileError(str(error)) from None


def _check(vips: Sequence[StatedVip], graph: nx.Graph, document: Document) -> None:
    """Check what a VIP cannot know: the address plan, and the testbed's nodes."""
    dips = dip_addresses(graph)
    switches = {node.name for node in fattree.nodes(graph, *SWITCHES)}
    plan = _dip_plan(graph)
    for index, stated in enumerate(vips):
        vip, path = stated.vip, ("vips", index)
        if vip.address not in addresses.VIPS:
            document.error((*path, "address"), f"VIP {vip.address} is not within {addresses.VIPS}")
        if stated.switch is not None and stated.switch not in {*switches, ON_SMUXES}:
            document.error(
                (*path, "switch"),
                f"VIP {vip.address}: there is no switch {stated.switch!r}; "
                f"switches are {', '.join(sorted(switches))}, `{ON_SMUXES}` is none of them",
            )
        for key, group in (
            ("dips", vip.dips),
            *((f"ports.{n}.dips", p.dips) for n, p in enumerate(vip.ports)),
        ):
            where = tuple(int(part) if part.isdigit() else part for part in key.split("."))
            unknown: dict[int, list[tuple[Place, IPv4Address]]] = {}
            for position, dip in enumerate(group):
                if dip.encap not in dips:
                    place: Place = (*path, *where, position)
                    unknown.setdefault(document.lines.get(place, 0), []).append((place, dip.encap))
            for found in unknown.values():
                told = _some([address for _, address in found])
                document.error(found[0][0], f"VIP {vip.address}: no server has the address {told}; {plan}")


def _some(found: Sequence[IPv4Address]) -> str:
    """Return the addresses, or the first of them: a prefix may stand for thousands."""
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return ", ".join(map(str, found[:_TOLD])) + more


def _dip_plan(graph: nx.Graph) -> str:
    """Say which addresses there are for DIPs: those of the first and the last server of each ToR."""
    own: dict[IPv4Network, list[fattree.Node]] = {}
    for node in fattree.nodes(graph, Kind.SERVER):
        if node.is_dip and node.prefix:
            own.setdefault(node.prefix.supernet(new_prefix=24), []).append(node)
    if not own:
        return "no server has DIPs"
    return "DIPs are " + ", ".join(
        f"{nodes[0].prefix[0]}-{nodes[-1].prefix[-1]}"  # type: ignore[index]
        for nodes in own.values()
    )


def served_ports(vips: Sequence[StatedVip], protocol: Protocol) -> set[int]:
    """Return the ports that DIPs must serve so that every port of every VIP is answered."""
    stated = {group.port for entry in vips for group in entry.vip.ports if group.protocol is protocol}
    checks = [check for entry in vips for check in entry.vip.checks().values()]
    return stated | {check.port for check in checks if check.protocol is protocol}


def dip_addresses(graph: nx.Graph) -> dict[IPv4Address, str]:
    """Map every address that can be a DIP to its server."""
    servers = (node for node in fattree.nodes(graph, Kind.SERVER) if node.is_dip and node.prefix)
    return {address: server.name for server in servers for address in server.prefix}  # type: ignore[union-attr]


__all__ = [
    "EXAMPLE",
    "StatedVip",
    "VipFileError",
    "dip_addresses",
    "parse",
    "read",
    "sample",
    "served_ports",
]
