"""A running testbed as a Mininet network, for Mininet's CLI and scripts.

Nothing is made here: `wiring` has made namespaces and links, and Mininet's objects attach to them. Shells
inside nodes start when a command is first sent to the node, not with it.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from typing import Any

import networkx as nx
from mininet.link import Intf, Link
from mininet.net import Mininet
from mininet.node import Node
from mininet.topo import Topo

from mininet_topos import fattree
from mininet_topos.testbed.folder import Folder

_END_OF_OUTPUT = b"\x7f"
"""Mininet's shells have it as their prompt: a command is over when it is read."""

# Mininet's own initialization raises limits of the whole machine, which a testbed must not touch.
Mininet.inited = True


class NamespaceNode(Node):  # type: ignore[misc]
    """A Mininet node that is one of the testbed's namespaces."""

    def __init__(self, name: str, *, spec: fattree.Node, folder: Folder, **params: Any) -> None:
        self.spec = spec
        self.path = folder.namespace(name)
        super().__init__(name, **(params | {"inNamespace": False}))

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802
        """Start none: the shell can wait."""

    def open_shell(self) -> None:
        """Start the shell that Mininet's `cmd` and CLI talk to, unless it runs; a command may end it."""
        if self.shell is not None and self.shell.poll() is not None:
            self.cleanup()
        if self.shell is None:
            super().startShell()
            watch = threading.Thread(
                target=_say_the_end, args=(self.shell, os.dup(self.slave)), name=self.name, daemon=True
            )
            watch.start()

    def cmd(self, *args: Any, **kwargs: Any) -> str:
        """Run a command in the node's shell and return what it printed."""
        self.open_shell()
        output: str = super().cmd(*args, **kwargs)
        return output

    def sendCmd(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Send a command to the node's shell."""
        self.open_shell()
        super().sendCmd(*args, **kwargs)

    def popen(self, *args: Any, **kwargs: Any) -> Any:
        """Start a process in the namespace."""
        kwargs.setdefault("mncmd", ["nsenter", f"--net={self.path}", "--"])
        return super().popen(*args, **kwargs)

    def _popen(self, cmd: list[str], **params: Any) -> Any:
        if cmd[0] == "mnexec":
            cmd = ["nsenter", f"--net={self.path}", "--", *cmd]
        return super()._popen(cmd, **params)

    def config(self, **params: Any) -> dict[str, Any]:
        """Leave the interfaces as they are: they are configured once, over netlink."""
        return {}


def _say_the_end(shell: subprocess.Popen[bytes], terminal: int) -> None:
    """End the output of a shell that has ended: nothing else does, and who waits for it would for ever."""
    shell.wait()
    with suppress(OSError):  # Nobody may be there to read it.
        os.write(terminal, _END_OF_OUTPUT)
    os.close(terminal)


class NamespaceSwitch(NamespaceNode):
    """A switch; Mininet lists it apart from hosts."""


class NamespaceIntf(Intf):  # type: ignore[misc]
    """An interface whose address, for Mininet's CLI, is that which its node is known by."""

    def updateIP(self) -> str:  # noqa: N802
        """Return the address of the node: `client1 ping server3` means that one."""
        self.ip = str(self.node.spec.address)
        return self.ip

    def config(self, **params: Any) -> dict[str, Any]:
        """Leave the interface as it is."""
        return {}


class VethLink(Link):  # type: ignore[misc]
    """A link of the FatTree."""

    def __init__(
        self, node1: NamespaceNode, node2: NamespaceNode, *, link: fattree.Link, **params: Any
    ) -> None:
        near, far = link.port(node1.name), link.port(node2.name)
        super().__init__(
            node1,
            node2,
            port1=near.number,
            port2=far.number,
            intfName1=near.name,
            intfName2=far.name,
            addr1=near.mac,
            addr2=far.mac,
            intf=NamespaceIntf,
            fast=True,
        )

    @classmethod
    def makeIntfPair(cls, *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Do nothing: the pair is there."""


class FatTreeTopo(Topo):  # type: ignore[misc]
    """The graph of `fattree.fattree` for Mininet."""

    def build(self, graph: nx.Graph, folder: Folder) -> None:
        """Add every node and link."""
        for node in fattree.nodes(graph):
            if node.is_switch:
                self.addSwitch(node.name, cls=NamespaceSwitch, spec=node, folder=folder)
            else:
                self.addHost(node.name, cls=NamespaceNode, spec=node, folder=folder)
        for link in fattree.links(graph):
            one, other = link.ends
            self.addLink(one.node, other.node, cls=VethLink, link=link)


class Network(Mininet):  # type: ignore[misc]
    """A testbed's network."""

    def __init__(self, graph: nx.Graph, folder: Folder) -> None:
        self.graph = graph
        self.folder = folder
        topo = FatTreeTopo(graph=graph, folder=folder)
        super().__init__(topo=topo, controller=None, link=VethLink, build=False)
        self.build()

    def configHosts(self) -> None:  # noqa: N802
        """Leave hosts as they are."""

    def close(self) -> None:
        """End the shells this object started in nodes; the network stays."""
        for node in self.values():
            node.terminate()
