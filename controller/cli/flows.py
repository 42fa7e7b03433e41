"""`duet flows`: the flows that pass muxes and reach servers, live."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller.cli import complete
from controller.cli.session import ADDRESS, Session, with_session
from controller.monitoring.flows import Flows, Wanted
from duet_p4.api.flows import FlowRecord

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_EVERY_S = 2.0


@click.command(short_help="Flows that pass muxes and reach servers, live.")
@click.option("--vip", type=ADDRESS, shell_complete=complete.vips, help="Of one VIP.")
@click.option(
    "--dip", type=ADDRESS, shell_complete=complete.server_dips, help="Of one DIP (or host of DIPs)."
)
@click.option("--device", shell_complete=complete.devices, help="Seen by one switch, SMux or server.")
@click.option("--source", type=ADDRESS, help="From one client.")
@click.option("--protocol", type=click.Choice(list(_PROTOCOLS)))
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True)
@click.option("--once", is_flag=True, help="Print them once, also on a terminal.")
@with_session
def flows(
    session: Session,
    vip: IPv4Address | None,
    dip: IPv4Address | None,
    device: str | None,
    source: IPv4Address | None,
    protocol: str | None,
    limit: int,
    once: bool,
) -> None:
    """Show flows: client, VIP, DIP, who saw them, packets and bytes, the latest first.

    They are estimated from samples of packets; a terminal is kept up to date until Ctrl-C. A testbed samples
    one packet in 16 (`duet testbed up --flow-sampling N`).
    """
    number = _PROTOCOLS[protocol] if protocol else None
    wanted = Wanted(vip=vip, dip=dip, device=device, source=source, protocol=number)

    def ask() -> Flows:
        return session.ask(lambda client: client.flow_records(wanted, limit))

    if session.as_json or once or not Console().is_terminal:
        found = ask()
        session.show(found, lambda: _shown(found))
        return
    with Live(_table(ask().records), auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY_S)
            live.update(_table(ask().records), refresh=True)


def _shown(found: Flows) -> Iterator[Table | str]:
    yield _table(found.records) if found.records else "no flows were seen in the last seconds"
    if found.unreachable:
        yield f"[yellow]no answer:[/] {', '.join(found.unreachable)}"


def _table(records: Sequence[FlowRecord]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("client", "VIP", "protocol", "DIP", "seen by"):
        table.add_column(name)
    for name in ("packets", "bytes", "replies", "bytes", "sampling", "last"):
        table.add_column(name, justify="right")
    now = time.time()
    for record in records:
        table.add_row(
            f"{record.source}:{record.source_port}",
            f"{record.destination}:{record.destination_port}",
            _NAMES.get(record.protocol, str(record.protocol)),
            str(record.dip),
            record.device,
            str(record.packets),
            str(record.bytes),
            *((str(record.reply_packets), str(record.reply_bytes)) if record.kind == "server" else ("", "")),
            f"1 in {record.sampling}",
            f"{max(now - record.last, 0):.1f} s ago",
        )
    return table
