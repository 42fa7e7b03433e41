"""The testbed's shell: Mininet's CLI (`client1 ping server3`, `net`, `py`) and the duet commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from click.shell_completion import ShellComplete
from mininet.cli import CLI
from mininet.log import setLogLevel

from mininet_topos import cli as root
from mininet_topos import fattree
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.network import Network
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask

# Commands of Mininet's that have no meaning here, or would change the network behind the launcher's back.
# `dump` and `links` leave out what there is to know here: addresses, and whose interfaces they are.
_HIDDEN = {
    "dpctl",
    "dump",
    "gterm",
    "iperf",
    "iperfudp",
    "links",
    "pingallfull",
    "pingpairfull",
    "switch",
    "x",
}
_INTRO = """
The testbed's shell. Some things to try (TAB completes, `help` lists everything, `exit` {leaving}):

  client1 curl -s http://10.0.0.1/          a VIP answers, and says which DIP it was
  outside ping -c 3 10.0.0.1                the same VIP from outside of the data centre
  testbed fail tor1                         kill a switch: its VIPs fall back to the SMuxes
  testbed status                            where every VIP lives
  tor1 ip route                             any command in any node
"""


def interact(folder: Folder, *, leaving: str) -> None:
    """Run the shell of a running testbed until the user leaves it; `leaving` says what becomes of it then."""
    setLogLevel("output")
    network = Network(fattree.fattree(Plan.load(folder).size), folder)
    print(_INTRO.format(leaving=leaving))
    try:
        Shell(network, folder)
    finally:
        network.close()


class Shell(CLI):  # type: ignore[misc]
    """Mininet's CLI with every `duet` command as one of its own."""

    prompt = "duet> "
    helpStr = """
Any other line is a command in a node, where the name of a node stands for its address:

  tor1 ip route
  client1 ping -c 3 server3

One that asks for characters, such as an editor, needs `noecho` before it; `xterm client1` opens a terminal.
"""  # noqa: N815

    def __init__(self, network: Network, folder: Folder) -> None:
        self.folder = folder
        self.network = network
        self.context = click.Context(root.main)
        self.commands = root.main.list_commands(self.context)
        self.completion = ShellComplete(root.main, {}, "duet", "_DUET_COMPLETE")
        os.environ["DUET_TESTBED"] = folder.name
        self.nodes = sorted(network.nameToNode)
        self.crashes_told = len(self._crashes())
        super().__init__(network)

    def __getattr__(self, name: str) -> Callable[[str], Any]:
        """Find `do_vip`, `complete_vip` and the like for the commands of `duet`."""
        verb, _, command = name.partition("_")
        if command and command in self.__dict__.get("commands", ()):
            if verb == "do":
                return partial(self._duet, command)
            if verb == "complete":
                return partial(self._complete_duet, command)
            if verb == "help":
                return lambda: self._duet(command, "--help")  # type: ignore[return-value,misc]
        raise AttributeError(name)

    def get_names(self) -> list[str]:
        """List the methods that are commands, for `help` and completion."""
        names = [name for name in super().get_names() if name.removeprefix("do_") not in _HIDDEN]
        return [*names, *(f"do_{command}" for command in self.commands)]

    def completenames(self, text: str, *ignored: Any) -> list[str]:
        """Complete commands and nodes."""
        names = super().completenames(text, *ignored)
        return sorted({*names, *(node for node in self.nodes if node.startswith(text))})

    def completedefault(self, text: str, line: str, begidx: int, endidx: int) -> list[str]:
        """Complete nodes after a node's name."""
        return [node for node in self.nodes if node.startswith(text)]

    def do_net(self, _: str) -> None:
        """Show what is at the other end of every interface."""
        for node in self.network.values():
            ends = []
            for interface in node.intfList():
                link = interface.link
                other = link.intf2 if link.intf1 is interface else link.intf1
                ends.append(f"{interface.name}:{other.node.name}-{other.name}")
            print(node.name, *ends)

    def do_link(self, line: str) -> None:
        """Let a link fail or bring it back. Usage: link node1 node2 [up/down]"""
        words = line.split()
        if len(words) != 3 or words[2] not in ("up", "down"):
            print("usage: link node1 node2 [up/down]")
            return
        self._duet("testbed", f"{'fail' if words[2] == 'down' else 'restore'} {words[0]}-{words[1]}")

    def postcmd(self, stop: bool, line: str) -> bool:
        """Say which processes have ended since the last command."""
        crashes = self._crashes()
        for crash in crashes[self.crashes_told :]:
            print(f"! {time.strftime('%H:%M:%S', time.localtime(crash.at))} {crash.text()}")
        self.crashes_told = len(crashes)
        return stop

    def _crashes(self) -> list[Any]:
        try:
            return list(ask(self.folder, Request(do="status")).crashes)
        except TestbedError as error:
            print(error)
            return []

    def _duet(self, command: str, line: str) -> None:
        """Run a duet command on this testbed, in a process of its own."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            print(f"{line}: {error}")
            return
        subprocess.run(
            [sys.executable, "-m", "mininet_topos.cli", command, *words],
            check=False,
        )

    def _complete_duet(self, command: str, text: str, line: str, begidx: int, endidx: int) -> list[str]:
        """Complete subcommands, options and values, as a shell with completion does for `duet`."""
        words = [command, *line[:begidx].split()[1:]]
        found = self.completion.get_completions(words, text)
        return [item.value for item in found if item.type == "plain"]
