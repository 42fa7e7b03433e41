"""What agents tell Prometheus."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from duet_p4 import metrics
from duet_p4.api.host import HostStatus, Meter
from duet_p4.api.mux import MuxCounters, MuxStatus, PortStatus, SessionStatus, TableUse, VipCount
from duet_p4.model import Protocol
from duet_p4.rest.routers.metrics import mux_router
from duet_p4.traffic import Exit

VIP = IPv4Address("10.0.0.1")


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


STATUS = MuxStatus(
    name="tor1",
    kind="hmux",
    target="xdp",
    uptime_s=3,
    vips=2,
    tips=1,
    announced=3,
    tables={"tunneling": TableUse(used=7, size=512)},
    ports=(PortStatus(number=1, name="eth1", up=True, received_bytes=10, sent_bytes=20),),
    sessions=(SessionStatus(name="agg1", neighbor=VIP, asn=1, established=False, state="Active"),),
    writes=9,
    health="BIRD does not run",
)
COUNTERS = MuxCounters(
    vips=(
        VipCount(address=VIP, packets=5, bytes=500),
        VipCount(address=VIP, protocol=Protocol.TCP, port=80, packets=1, bytes=60),
    ),
    tunnels=(),
    drops={"drop_ttl": 4},
)


def test_a_mux_tells_what_its_status_and_counters_say() -> None:
    found = samples(metrics.text(metrics.of_mux(STATUS, COUNTERS)))
    expected: dict[tuple[str, ...], float] = {
        ("duet_agent_ok",): 0,
        ("duet_agent_writes_total",): 9,
        ("duet_mux_entries", "vip"): 2,
        ("duet_mux_draining",): 0,
        ("duet_mux_table_used", "tunneling"): 7,
        ("duet_mux_table_size", "tunneling"): 512,
        ("duet_mux_port_up", "eth1"): 1,
        ("duet_mux_port_bytes_total", "sent", "eth1"): 20,
        ("duet_mux_bgp_established", "agg1"): 0,
        ("duet_mux_vip_packets_total", "10.0.0.1", "", ""): 5,
        ("duet_mux_vip_bytes_total", "10.0.0.1", "80", "tcp"): 60,
        ("duet_mux_drops_total", "drop_ttl"): 4,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_a_server_tells_its_meters_and_exits() -> None:
    status = HostStatus(
        name="server1",
        uptime_s=1,
        vips=1,
        interfaces=("eth1",),
        snat_connections=2,
        exits=(Exit(name="DROP_TTL", meaning="", packets=3, bytes=4),),
        writes=1,
        health="ready",
    )
    meter = Meter(vip=VIP, dip=VIP + 1, packets_in=1, bytes_in=2, packets_out=3, bytes_out=4)
    found = samples(metrics.text(metrics.of_host(status, [meter])))
    assert found["duet_agent_ok",] == 1
    assert found["duet_host_bytes_total", "10.0.0.2", "out", "10.0.0.1"] == 4
    assert found["duet_host_exits_total", "DROP_TTL"] == 3
    assert found["duet_host_snat_connections",] == 2


def test_an_agent_serves_them() -> None:
    class Mux:
        async def status(self) -> MuxStatus:
            return STATUS

        async def counters(self) -> MuxCounters:
            return COUNTERS

    async def ask() -> httpx.Response:
        app = FastAPI()
        app.include_router(mux_router(Mux()))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mux") as client:
            return await client.get("/metrics")

    reply = asyncio.run(ask())
    assert reply.headers["content-type"].startswith("text/plain")
    assert samples(reply.content)["duet_mux_entries", "tip"] == 1
