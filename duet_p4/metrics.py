"""What agents tell Prometheus: made of the same answers as their REST interface gives, when it asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from duet_p4.api.host import HostStatus, Meter
from duet_p4.api.mux import MuxCounters, MuxStatus


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def text(metrics: Iterable[Metric]) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry)


def of_mux(status: MuxStatus, counters: MuxCounters) -> Iterable[Metric]:
    """Yield the metrics of a switch agent or SMux agent."""
    yield from _of_agent(status.uptime_s, status.writes, synced=status.synced, health=status.health)
    held = GaugeMetricFamily("duet_mux_entries", "What the mux holds", labels=["kind"])
    for kind, number in (("vip", status.vips), ("tip", status.tips), ("announced", status.announced)):
        held.add_metric([kind], number)
    yield held
    yield GaugeMetricFamily(
        "duet_mux_draining", "Whether neighbours are asked to prefer other SMuxes", value=status.draining
    )
    used = GaugeMetricFamily("duet_mux_table_used", "Entries of a table", labels=["table"])
    size = GaugeMetricFamily("duet_mux_table_size", "Entries that a table has room for", labels=["table"])
    for table, use in sorted(status.tables.items()):
        used.add_metric([table], use.used)
        size.add_metric([table], use.size)
    yield from (used, size)
    up = GaugeMetricFamily("duet_mux_port_up", "Whether a port's link is up", labels=["port"])
    port_bytes = CounterMetricFamily(
        "duet_mux_port_bytes", "Bytes on a port since it was made", labels=["port", "direction"]
    )
    for port in status.ports:
        up.add_metric([port.name], port.up)
        port_bytes.add_metric([port.name, "received"], port.received_bytes)
        port_bytes.add_metric([port.name, "sent"], port.sent_bytes)
    yield from (up, port_bytes)
    sessions = GaugeMetricFamily(
        "duet_mux_bgp_established", "Whether a BGP session is established", labels=["neighbor"]
    )
    for session in status.sessions:
        sessions.add_metric([session.name], session.established)
    yield sessions
    labels = ["address", "protocol", "port"]
    packets = CounterMetricFamily("duet_mux_vip_packets", "Packets to a VIP or TIP", labels=labels)
    sizes = CounterMetricFamily("duet_mux_vip_bytes", "Bytes to a VIP or TIP", labels=labels)
    for vip in counters.vips:
        values = [str(vip.address), vip.protocol or "", str(vip.port or "")]
        packets.add_metric(values, vip.packets)
        sizes.add_metric(values, vip.bytes)
    yield from (packets, sizes)
    drops = CounterMetricFamily("duet_mux_drops", "Packets that were dropped", labels=["reason"])
    for reason, number in sorted(counters.drops.items()):
        drops.add_metric([reason], number)
    yield drops


def of_host(status: HostStatus, meters: Iterable[Meter]) -> Iterable[Metric]:
    """Yield the metrics of a host agent."""
    yield from _of_agent(status.uptime_s, status.writes, synced=status.synced, health=status.health)
    yield GaugeMetricFamily("duet_host_vips", "VIPs that DIPs of this server serve", value=status.vips)
    yield GaugeMetricFamily(
        "duet_host_snat_connections",
        "Connections out with a VIP as source",
        value=status.snat_connections,
    )
    labels = ["vip", "dip", "direction"]
    packets = CounterMetricFamily("duet_host_packets", "Packets of a VIP on a DIP", labels=labels)
    sizes = CounterMetricFamily("duet_host_bytes", "Bytes of a VIP on a DIP", labels=labels)
    for meter in meters:
        own = [str(meter.vip), str(meter.dip)]
        packets.add_metric([*own, "in"], meter.packets_in)
        packets.add_metric([*own, "out"], meter.packets_out)
        sizes.add_metric([*own, "in"], meter.bytes_in)
        sizes.add_metric([*own, "out"], meter.bytes_out)
    yield from (packets, sizes)
    exits = CounterMetricFamily("duet_host_exits", "How packets left the data path", labels=["way"])
    for way in status.exits:
        exits.add_metric([way.name], way.packets)
    yield exits


def _of_agent(uptime_s: float, writes: int, *, synced: bool, health: str) -> Iterable[Metric]:
    yield GaugeMetricFamily("duet_agent_uptime_seconds", "How long the agent runs", value=uptime_s)
    yield CounterMetricFamily("duet_agent_writes", "Entries written to the data path", value=writes)
    yield GaugeMetricFamily(
        "duet_agent_synced", "Whether what it holds was confirmed since it started", value=synced
    )
    yield GaugeMetricFamily("duet_agent_ok", "Whether nothing is wrong with it", value=health == "ready")
