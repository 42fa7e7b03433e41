"""What the shell offers for a testbed's nodes, links and ports on TAB; nothing where none is up."""

from __future__ import annotations

from collections.abc import Iterable

import click
import networkx as nx

from controller.cli import complete as controller
from controller.client import local_socket
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed.folder import DEFAULT_NAME, ROOT_NODE, Folder, TestbedError
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask


def nodes(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer nodes."""
    return _fitting([*_graph(context), ROOT_NODE], text)


def clients(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer clients."""
    return _fitting((node.name for node in fattree.nodes(_graph(context), Kind.CLIENT)), text)


def vips(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer the VIPs of the testbed's controller."""
    return controller.vips_at(local_socket(_folder(context).path), text)


def nodes_and_links(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer nodes; and links once a node and a dash are there."""
    graph = _graph(context)
    one, dash, _other = text.partition("-")
    if dash and one in graph:
        return _fitting((f"{one}-{other}" for other in graph[one]), text)
    return _fitting(graph, text)


def failed(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer what was made to fail."""
    try:
        return _fitting(ask(_folder(context), Request(do="status")).failed, text)
    except TestbedError:
        return []


def ports(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer the ports of the node that was named before, by name and by neighbour."""
    graph, node = _graph(context), str(context.params.get("node"))
    links = fattree.links(graph, node) if node in graph else []
    own = [link.port(node).name for link in links]
    return _fitting([*own, *(link.peer(node).node for link in links)], text)


def _fitting(values: Iterable[str], text: str) -> list[str]:
    return sorted(value for value in values if value.startswith(text))


def _folder(context: click.Context) -> Folder:
    return Folder(context.params.get("name") or DEFAULT_NAME)


def _graph(context: click.Context) -> nx.Graph:
    try:
        return fattree.fattree(Plan.load(_folder(context)).size)
    except (TestbedError, OSError):
        return nx.Graph()
