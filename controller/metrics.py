"""The controller's metrics for Prometheus, counted when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.jobs import Job
from controller.monitoring.service import Monitoring
from controller.records import ON_SMUXES
from controller.updater.service import Updater

_WINDOW_S = 60.0


class _Collector(Collector):
    """Collects what functions yield."""

    def __init__(self, *parts: Callable[[], Iterable[Metric]]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        for part in self._parts:
            yield from part()


def registry_of(
    jobs: Iterable[Job], updater: Updater | None, monitoring: Monitoring | None
) -> CollectorRegistry:
    """Return a registry with the metrics of the modules that run here."""
    parts: list[Callable[[], Iterable[Metric]]] = [lambda: _of_jobs(jobs)]
    if updater is not None:
        parts.append(lambda: _of_updater(updater))
    if monitoring is not None:
        parts.append(lambda: _of_monitoring(monitoring))
    registry = CollectorRegistry()
    registry.register(_Collector(*parts))
    return registry


def _of_jobs(jobs: Iterable[Job]) -> Iterable[Metric]:
    runs = GaugeMetricFamily("duet_job_runs", "How often a job was done", labels=["task"])
    failures = GaugeMetricFamily("duet_job_failures", "How often a job failed", labels=["task"])
    took = GaugeMetricFamily("duet_job_seconds", "How long a job took the last time", labels=["task"])
    well = GaugeMetricFamily("duet_job_ok", "Whether a job does its work", labels=["task"])
    for job in jobs:
        runs.add_metric([job.name], job.runs)
        failures.add_metric([job.name], job.failures)
        took.add_metric([job.name], job.took_s)
        well.add_metric([job.name], not job.problem)
    return runs, failures, took, well


def _of_updater(updater: Updater) -> Iterable[Metric]:
    state, queue = updater.state, updater.reconciler.queue
    vips = GaugeMetricFamily("duet_vips", "VIPs by what carries them", labels=["switch"])
    for switch, count in Counter(record.switch or ON_SMUXES for record in state.records()).items():
        vips.add_metric([switch], count)
    yield vips
    pinned = GaugeMetricFamily("duet_pinned_flows", "Flows pinned to their DIP", labels=["vip"])
    for vip in sorted(state.pinned):
        if record := state.get(vip):
            pinned.add_metric([str(vip)], len(record.layout.pinned))
    yield pinned
    yield GaugeMetricFamily("duet_dips_down", "DIPs that are out of service", value=len(state.down_dips()))
    yield GaugeMetricFamily("duet_queue_depth", "VIPs and TIPs that wait to be looked at", value=queue.depth)
    yield GaugeMetricFamily(
        "duet_queue_oldest_seconds", "How long the oldest of them has waited", value=queue.oldest_s()
    )
    reach = GaugeMetricFamily("duet_devices", "Devices by whether they can be reached", labels=["reach"])
    for known, count in Counter(updater.reconciler.reach.values()).items():
        reach.add_metric([known.value], count)
    yield reach


def _of_monitoring(monitoring: Monitoring) -> Iterable[Metric]:
    traffic = GaugeMetricFamily("duet_vip_traffic_bps", "Traffic of the last minute", labels=["vip"])
    rates: Counter[str] = Counter()
    for sample in monitoring.traffic(_WINDOW_S):
        rates[str(sample.vip)] += sample.bps  # type: ignore[assignment]
    for vip, bps in rates.items():
        traffic.add_metric([vip], bps)
    yield traffic
