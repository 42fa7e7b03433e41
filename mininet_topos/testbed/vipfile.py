"""The VIP file: the operator's statement of which VIPs there are and which DIPs serve them, in YAML.

    vips:
      - address: 10.0.0.1           # within 10.0.0.0/16
        name: web                   # optional, for people
        dips:                       # a DIP is an address, a prefix (every address in it), or a mapping
          - 100.1.1.17
          - 100.1.2.16/28
          - {address: 100.2.1.17, weight: 3}
        ports:                      # optional: ports with DIPs of their own
          - {protocol: tcp, port: 21, dips: [100.2.2.17]}
        snat: true                  # optional: the DIPs may open connections as the VIP
        health: {kind: http, port: 80, path: /}
        switch: tor1                # optional: the HMux that carries it, or `smux` for none

A file that is wrong is refused whole, with the line and the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import networkx as nx
import yaml
from pydantic import ValidationError

from controller.records import ON_SMUXES
from duet_p4.model import Dip, Model, Protocol, Vip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed.folder import TestbedError

EXAMPLE = Path(__file__).with_name("vips.yaml")
"""The paper's testbed with every feature; what comes up by default."""

_SAMPLES, _SHARES = 4, 3
_SHORTEST_PREFIX = 16
_TOLD = 3
_DEEPEST = 8  # An alias may name what it is part of.
_YAML_TAG = "tag:yaml.org,2002:"
_Path = tuple[str | int, ...]


class StatedVip(Model):
    """A VIP of the file, and where the file puts it; no `switch` leaves that to whoever places VIPs."""

    vip: Vip
    switch: str | None = None


class VipFileError(TestbedError):
    """A VIP file that cannot be used; the text names file, line and reason."""


def read(path: Path, graph: nx.Graph) -> list[StatedVip]:
    """Read a VIP file for a testbed. Raises `VipFileError` naming every line that is wrong."""
    try:
        text = path.read_text()
    except OSError as error:
        raise VipFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise VipFileError(f"{path} is no text file") from None
    return parse(text, graph, str(path))


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
    """Read the text of a VIP file; `source` is its name in errors."""
    document = _Document(source)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise VipFileError(f"{source}, line {line}: {getattr(error, 'problem', error)}") from None
    content = document.value(root, ()) if root is not None else None
    if document.errors and content is None:
        raise VipFileError("\n".join(document.errors))
    if not isinstance(content, dict) or not isinstance(content.get("vips"), list) or len(content) != 1:
        raise VipFileError(f"{source}, line 1: expected one key, `vips`, with a list of VIPs")
    stated = [document.vip(entry, ("vips", index)) for index, entry in enumerate(content["vips"])]
    found = [vip for vip in stated if vip is not None]
    if len(found) == len(stated):
        _check(found, graph, document)
    if document.errors:
        raise VipFileError("\n".join(document.errors))
    return found


class _Document:
    """The plain values of a YAML document, the line each stands on, and what is wrong with it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[_Path, int] = {}
        self.errors: list[str] = []

    def error(self, path: _Path, text: str) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        self.errors.append(f"{self.source}, line {self.lines.get(path, 1)}: {text}")

    def value(self, node: yaml.Node, path: _Path) -> Any:
        if len(path) > _DEEPEST:
            raise VipFileError(f"{self.source}, line {node.start_mark.line + 1}: nested too deeply")
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                if key in mapping:
                    self.lines[(*path, key)] = key_node.start_mark.line + 1
                    self.error((*path, key), f"{key} is stated twice")
                mapping[key] = self.value(value_node, (*path, key))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            if path and path[-1] == "dips":
                return self._dips(node, path)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            # A tag that YAML does not know, or a value that is none of its tag, such as a 13th month.
            self.error(path, f"{node.value!r} is no {node.tag.removeprefix(_YAML_TAG)}")
            return None

    def _dips(self, node: yaml.SequenceNode, path: _Path) -> list[Any]:
        """Spell out the short forms of DIPs; each keeps the line of what it came from."""
        dips: list[Any] = []
        for item in node.value:
            line = item.start_mark.line + 1
            stated = self.value(item, (*path, len(dips)))
            mapping = stated if isinstance(stated, dict) else {"address": stated}
            address = mapping.get("address")
            if isinstance(address, str) and "/" in address:
                try:
                    prefix = IPv4Network(address)
                    if prefix.prefixlen < _SHORTEST_PREFIX:
                        raise ValueError(f"a prefix of DIPs is a /{_SHORTEST_PREFIX} at the largest")
                    spelled = [mapping | {"address": str(one)} for one in prefix]
                except ValueError as error:
                    self.error((*path, len(dips)), f"DIPs {address}: {error}")
                    continue
            else:
                spelled = [mapping]
            for one in spelled:
                self.lines[(*path, len(dips))] = line
                dips.append(one)
        return dips

    def vip(self, entry: Any, path: _Path) -> StatedVip | None:
        if not isinstance(entry, dict):
            self.error(path, f"expected a VIP with `address` and `dips`, not {entry!r}")
            return None
        own = {key: value for key, value in entry.items() if key != "switch"}
        switch = entry.get("switch")
        if switch is not None and not isinstance(switch, str):
            self.error((*path, "switch"), f"switch: {switch!r} is no name")
            return None
        try:
            return StatedVip(vip=Vip.model_validate(own), switch=switch)
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"])
                text = problem["msg"].removeprefix("Value error, ")
                given = "" if isinstance(problem["input"], dict | list) else f", not {problem['input']!r}"
                prefix = f"VIP {entry.get('address', '(no address)')}: {where}: " if where else ""
                self.error((*path, *problem["loc"]), f"{prefix}{text}{given}")
            return None


def _check(vips: Sequence[StatedVip], graph: nx.Graph, document: _Document) -> None:
    """Check what a single VIP cannot know: the address plan, the other VIPs, the testbed's nodes."""
    dips = dip_addresses(graph)
    switches = {node.name for node in fattree.nodes(graph, *SWITCHES)}
    seen: dict[object, int] = {}
    plan = _dip_plan(graph)
    for index, stated in enumerate(vips):
        vip, path = stated.vip, ("vips", index)
        if vip.address not in addresses.VIPS:
            document.error((*path, "address"), f"VIP {vip.address} is not within {addresses.VIPS}")
        for value, key in ((vip.address, "address"), (vip.name, "name")):
            if value is not None and value in seen:
                line = document.lines[("vips", seen[value])]
                document.error((*path, key), f"VIP {value} is stated already, on line {line}")
            seen[value] = index
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
            unknown: dict[int, list[tuple[_Path, IPv4Address]]] = {}
            for position, dip in enumerate(group):
                if dip.encap not in dips:
                    place: _Path = (*path, *where, position)
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
    if protocol is Protocol.TCP:
        stated |= {entry.vip.health.port for entry in vips if entry.vip.health is not None}
    return stated


def dip_addresses(graph: nx.Graph) -> dict[IPv4Address, str]:
    """Map every address that can be a DIP to its server."""
    servers = (node for node in fattree.nodes(graph, Kind.SERVER) if node.is_dip and node.prefix)
    return {address: server.name for server in servers for address in server.prefix}  # type: ignore[union-attr]
