"""The controller's metrics for Prometheus, read from the store when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.store import Store

_WINDOW_S = 60.0


class _StoreCollector(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Yield VIPs by placement, DIPs that are down, traffic per VIP, pinned flows."""
        vips = GaugeMetricFamily("duet_vips", "VIPs by what carries them", labels=["switch"])
        pinned = GaugeMetricFamily("duet_pinned_flows", "Flows pinned to their DIP", labels=["vip"])
        records = self._store.vips().values()
        counts: dict[str, int] = {}
        for record in records:
            counts[record.switch or "smux"] = counts.get(record.switch or "smux", 0) + 1
            pinned.add_metric([str(record.address)], len(record.layout.pinned))
        for switch, count in counts.items():
            vips.add_metric([switch], count)
        yield vips
        yield pinned
        yield GaugeMetricFamily(
            "duet_dips_down", "DIPs that are out of service", value=len(self._store.down_dips())
        )
        traffic = GaugeMetricFamily("duet_vip_traffic_bps", "Traffic of the last minute", labels=["vip"])
        rates: dict[str, float] = {}
        for sample in self._store.traffic(time.time() - _WINDOW_S):
            rates[str(sample.vip)] = rates.get(str(sample.vip), 0.0) + sample.bps
        for vip, bps in rates.items():
            traffic.add_metric([vip], bps)
        yield traffic


def registry_of(store: Store) -> CollectorRegistry:
    """Return a registry with the metrics of `store`."""
    registry = CollectorRegistry()
    registry.register(_StoreCollector(store))
    return registry
