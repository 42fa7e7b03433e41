"""The `duet` command: one lazy tree of everything the project can do.

A command's module is imported when the command is used, so `duet --help` and completion start fast.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """A command that is not imported yet: `module:attribute`, and its line in the listing."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is {command!r}, not a click command")
        return command


class LazyGroup(click.Group):
    """A group whose commands are `Lazy`."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, loaded or not."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command on first use."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            self.commands[cmd_name] = self.lazy[cmd_name].load()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            known = self.commands.get(name)
            rows.append((name, known.get_short_help_str() if known else self.lazy[name].summary))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


bench = LazyGroup(
    "bench",
    short_help="Measure, and plot.",
    help="Measure, and plot.",
    lazy={
        "assignment": Lazy("controller.simulation.bench:assignment", "The engine at data-centre size."),
        "control": Lazy("mininet_topos.experiments.control:control", "From a REST call to packets."),
        "scale": Lazy("mininet_topos.experiments.scale:scale", "The controller with 30,000 VIPs."),
        "dataplane": Lazy("duet_p4.bench.cli:dataplane", "Packets per second: xdp, bmv2, and the floor."),
        "middleblock": Lazy("duet_p4.bench.cli:middleblock", "PINS' middleblock, on xdp and bmv2."),
    },
)

p4 = LazyGroup(
    "p4",
    short_help="P4 programs on their targets.",
    help="P4 programs on their targets.",
    lazy={
        "resources": Lazy("duet_p4.hmux.cli:resources", "What hmux_tna.p4 takes of a Tofino."),
        "stf": Lazy("duet_p4.xdp_switch.stf.cli:stf", "Run a folder of STF tests, such as p4c's own."),
    },
)


class Root(LazyGroup):
    """The whole tree: says in one line that what it prints cannot be written, such as to a full disk."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            # Else the interpreter tries again to write the rest, and complains.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
            sys.exit(1)


@click.command(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    lazy={
        "apply": Lazy("controller.cli.apply:apply", "Have what a VIP file states."),
        "diff": Lazy("controller.cli.apply:diff", "What a VIP file would change."),
        "export": Lazy("controller.cli.apply:export", "All VIPs as a VIP file."),
        "assignment": Lazy(
            "controller.cli.assignment:assignment", "Which switch carries which VIP, and why."
        ),
        "certificates": Lazy("mininet_topos.testbed.certificates:certificates", "Who has one, and new ones."),
        "drain": Lazy("controller.cli.drain:drain", "Have other SMuxes preferred to one."),
        "controller": Lazy("controller.__main__:command", "Run the controller, or one of its modules."),
        "events": Lazy("controller.cli.status:events", "What happened."),
        "experiment": Lazy("mininet_topos.experiments.cli:experiment", "The paper's testbed experiments."),
        "flows": Lazy("controller.cli.flows:flows", "Flows that pass muxes and reach servers, live."),
        "simulate": Lazy("controller.simulation.cli:simulate", "The paper's large-scale simulations."),
        "status": Lazy("controller.cli.status:status", "The controller at a glance."),
        "testbed": Lazy("mininet_topos.testbed.cli:testbed", "The paper's FatTree, alive in namespaces."),
        "trace": Lazy("mininet_topos.testbed.trace_cli:trace", "One packet's way, step by step."),
        "web": Lazy("controller.cli.web:web", "The web page: print its address."),
        "why": Lazy("controller.cli.status:why", "Why a VIP is where it is."),
        "vip": Lazy("controller.cli.vip:vip", "VIPs: what the operator wants."),
    },
)
@click.version_option(package_name="duet-p4")
def main() -> None:
    """DUET: load balancing with the switches a data centre already has, and few software muxes."""
    # Root may have come by sudo or su with a user's PATH, on Debian without ifconfig, tc and bird.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


main.add_command(bench)
main.add_command(p4)

if __name__ == "__main__":
    main(prog_name="duet")
