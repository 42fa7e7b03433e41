"""`duet trace`: one real packet, step by step."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address

import click
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.tree import Tree

from duet_p4.api.installed import Installed
from duet_p4.api.trace import Changed, Line, Step, Value
from mininet_topos.testbed import complete, tracing
from mininet_topos.testbed.folder import DEFAULT_NAME, Folder, TestbedError, in_the_way
from mininet_topos.testbed.tracing import Hop, Journey, TracedPacket

_WIDTH = 120
_PORTS = {"tcp": 80, "udp": 7, "icmp": 0}

output = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


class _Target(click.ParamType[tuple[IPv4Address, int | None]]):
    """A VIP, with a port or without."""

    name = "VIP[:PORT]"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[IPv4Address, int | None]:
        """Return address and port."""
        address, _, port = value.partition(":")
        try:
            vip = IPv4Address(address)
            number = int(port) if port else None
            if number is not None and not 1 <= number <= 65535:
                raise ValueError(port)
        except ValueError:
            self.fail(f"{value!r} is no VIP or VIP:PORT, such as 10.0.0.1:80", param, ctx)
        return vip, number


@click.command(short_help="One packet's way, step by step.")
@click.argument("client", shell_complete=complete.clients)
@click.argument("target", type=_Target(), metavar="VIP[:PORT]", shell_complete=complete.vips)
@click.option("--protocol", type=click.Choice(list(_PORTS)), default="tcp", show_default=True)
@click.option(
    "--source-port", type=click.IntRange(1, 65535), help="By default any; of a ping, its identifier."
)
@click.option("--name", default=DEFAULT_NAME, envvar="DUET_TESTBED", show_default=True, help="Which testbed.")
@click.option(
    "--all", "every", is_flag=True, help="Every packet of the exchange in full, not the first each way."
)
@click.option("--brief", is_flag=True, help="The hops alone, without their steps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value as the last line.")
def trace(
    client: str,
    target: tuple[IPv4Address, int | None],
    protocol: str,
    source_port: int | None,
    name: str,
    every: bool,
    brief: bool,
    as_json: bool,
) -> None:
    """Send a real packet from a client to a VIP, and show what every node on its way does with it.

    Instrumented variants of the programs of switches, SMuxes and servers run while the packet is on its way.
    Shown are parser states, tables with key, entry and action, what each step changes, hashes and slots, the
    lines of P4 and C. BMv2 tells the same in its log. Needs root.
    """
    vip, port = target
    port = port if port is not None else _PORTS[protocol]
    try:
        journey = asyncio.run(tracing.trace(Folder(name), client, vip, port, protocol, source_port))
    except TestbedError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot trace in testbed {name!r}: {in_the_way(error)}") from error
    if as_json:
        click.echo(journey.model_dump_json())
        return
    show(journey, every=every, brief=brief)


def show(journey: Journey, *, every: bool, brief: bool) -> None:
    """Print a journey."""
    ends = f"{journey.source}:{journey.source_port} to {journey.vip}:{journey.destination_port}"
    output.print(f"[bold]{journey.client}[/] {journey.protocol.upper()} {ends}: {journey.answer}")
    shown: set[bool] = set()
    for packet in journey.packets:
        full = not brief and (every or packet.back not in shown)
        shown.add(packet.back)
        _packet(packet, full)
    for line in journey.untraced:
        output.print(f"[yellow]not traced:[/] {escape(line)}")
    if journey.lost_records:
        output.print(f"[yellow]{journey.lost_records} records had no room: steps may be missing[/]")


def _packet(packet: TracedPacket, full: bool) -> None:
    way = "back" if packet.back else "there"
    names = " → ".join(hop.node for hop in packet.hops)
    ends = " [red]lost here[/]" if packet.lost else ""
    output.print()
    output.print(Panel(f"[bold]{packet.what}[/], {way}: {names}{ends}", expand=False))
    for number, hop in enumerate(packet.hops, 1):
        if full:
            _hop(number, hop)
        elif hop.trace is not None and hop.trace.verdict not in ("sent", "passed"):
            output.print(f"  {hop.node}: [red]dropped[/]: {hop.trace.reason}")


def _hop(number: int, hop: Hop) -> None:
    if hop.trace is None:
        output.print(f"[bold]{number}. {hop.node}[/] {hop.note or ''}")
        return
    one = hop.trace
    took = (one.ended_ns - one.began_ns) / 1000
    came = f" from {hop.came_from}" if hop.came_from else ""
    tree = Tree(
        f"[bold]{number}. {hop.node}[/] port {one.ingress}{came}, {one.length} bytes, traced in {took:.0f} µs"
    )
    states = [step.name for step in one.steps if step.kind == "state"]
    if states:
        tree.add(f"[cyan]parser[/] {' → '.join(states)}")
    tree.add(f"[cyan]in[/]  {_headers(one.headers_in)}")
    for step in one.steps:
        if step.kind in ("branch", "table", "work"):
            _step(tree, step)
    if one.verdict == "passed":
        tree.add("[green]delivered[/] to the DIP" if one.kind == "server" else "passed to the kernel")
    elif one.verdict == "sent":
        tree.add(f"[cyan]out[/] {_headers(one.headers_out)}")
        went = f" to {hop.went_to}" if hop.went_to else ""
        tree.add(f"[green]sent[/] by port {one.egress}{went}")
    else:
        tree.add(f"[red]dropped[/]: {one.reason}")
    output.print(tree)


def _step(tree: Tree, step: Step) -> None:
    if step.kind == "branch":
        if step.taken:
            tree.add(f"[dim]if ({escape(step.name)}) {_at(step.line)}[/]")
        return
    if step.kind == "work":
        work = tree.add(f"{escape(step.name)} [dim]{_at(step.line)}[/] {_arguments(step)}".rstrip())
        for counter in step.counters:
            work.add(f"[dim]counts in {escape(counter)}[/]")
        return
    changes = list(_changes(step.changes))
    if not step.key and not changes:
        return
    if step.key:
        key = ", ".join(
            f"{escape(one.field)}={_shown(one.field, one.value)}"
            + (
                f" [dim]({_wanted(one.field, one.wanted)})[/]"
                if one.wanted is not None and one.kind != "exact"
                else ""
            )
            for one in step.key
        )
        verdict = "[green]hit[/]" if step.hit else "[yellow]miss[/]"
        line = f"[bold]{escape(step.name)}[/] {_at(step.line)} {key}: {verdict}"
    else:
        line = f"[dim]{_text(step.action_line or step.line)} {_at(step.action_line or step.line)}[/]"
    branch = tree.add(line)
    if step.key and step.action:
        branch.add(f"{escape(step.action)}({_arguments(step)}) [dim]{_at(step.action_line)}[/]")
    elif step.arguments:
        branch.add(_arguments(step))
    if step.installed is not None:
        branch.add(f"[dim]{escape(_installed(step.installed))}[/]")
    for counter in step.counters:
        branch.add(f"[dim]counts in {escape(counter)}[/]")
    if changes:
        branch.add("[dim]" + escape("; ".join(changes)) + "[/]")


def _arguments(step: Step) -> str:
    return ", ".join(f"{one.name}={_shown(one.name, one.value)}" for one in step.arguments)


def _installed(installed: Installed) -> str:
    """Return who put an entry there, and when."""
    by = f" by {installed.by}" if installed.by else ""
    when = ""
    if installed.at is not None:
        at = datetime.fromtimestamp(installed.at, UTC).astimezone()
        when = f" at {at:%H:%M:%S}, {max(time.time() - installed.at, 0):.0f} s ago"
    return f"installed{by}{when}"


def _changes(changes: Sequence[Changed]) -> Iterator[str]:
    """Yield what a step changed: a header that comes or goes is one change."""
    appeared = {one.field for one in changes if "." not in one.field and one.after == "0x1"}
    gone = {one.field for one in changes if "." not in one.field and one.after == "0x0"}
    for one in changes:
        header, _, _ = one.field.partition(".")
        if one.field in appeared:
            yield f"+{one.field}"
        elif one.field in gone:
            yield f"-{one.field}"
        elif header in gone:
            continue
        else:
            yield f"{_short(one.field)} = {_shown(one.field, one.after)}"


def _short(field: str) -> str:
    return (
        field.removeprefix("scalars.")
        .removeprefix("standard_metadata.")
        .removeprefix("metadata_t._")
        .rstrip("0123456789")
    )


def _headers(values: Sequence[Value]) -> str:
    headers: dict[str, dict[str, Value]] = {}
    for value in values:
        header, _, field = value.name.partition(".")
        headers.setdefault(header, {})[field] = value
    parts = []
    for header, fields in headers.items():
        ends = [f"{_shown(name, fields[name].value)}" for name in ("src_addr", "dst_addr") if name in fields]
        more = [f"{n}={int(fields[n].value, 16)}" for n in ("ttl", "protocol") if n in fields]
        parts.append(f"[bold]{header}[/] " + " > ".join(ends) + (f" {' '.join(more)}" if more else ""))
    return " | ".join(parts)


def _shown(name: str, value: str | None) -> str:
    """Return a value as people write it: addresses by what the field is called and how wide it is."""
    if value is None:
        return "-"
    number, digits = int(value, 16), len(value) - 2
    if digits == 8 and any(part in name for part in ("addr", "dst", "src", "dip")):
        return str(IPv4Address(number))
    if digits == 12:
        return ":".join(value[at : at + 2] for at in range(2, 14, 2))
    return str(number) if number < 100_000 else value


def _wanted(name: str, wanted: str) -> str:
    if "/" in wanted:
        value, _, length = wanted.partition("/")
        return f"{_shown(name, value)}/{length}"
    return wanted


def _at(line: Line | None) -> str:
    return f"{line.file.rsplit('/', 1)[-1]}:{line.line}" if line is not None else ""


def _text(line: Line | None) -> str:
    return escape(line.text) if line is not None else ""
