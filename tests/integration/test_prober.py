"""Health checks through the tunnel, by real data paths: what is dead on the way takes a DIP down, too."""

import asyncio
import os
import subprocess
from ipaddress import IPv4Address

import pytest

from duet_p4.model import HealthCheck, HealthCheckKind
from duet_p4.smux.prober import Prober, Tunnels
from tests.integration.balanced import DIPS, ECHO, HTTP, MUX, UPLINK, balanced
from tests.integration.netns import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and eBPF need root"),
]

GATEWAY = IPv4Address("172.31.0.1")
ONE, TWO = DIPS["server1"][0], DIPS["server2"][0]
CHECK = HealthCheck(
    kind=HealthCheckKind.HTTP, port=HTTP, path="/health", interval_ms=50, timeout_ms=300, fall=2, rise=2
)
ANSWERED = HealthCheck(
    kind=HealthCheckKind.UDP, port=ECHO, send="well?", expect="well?", interval_ms=50, fall=1, rise=1
)
DATAGRAMS = (ANSWERED, ANSWERED.model_copy(update={"expect": "no such thing"}))


def rules(namespace: str) -> str:
    return subprocess.run(["ip", "-n", namespace, "rule"], capture_output=True, text=True, check=True).stdout


def test_a_dip_whose_data_path_is_gone_is_down_although_its_service_is_well() -> None:
    with balanced() as network:
        held = network.put_vip("10.0.0.9", [ONE, TWO])
        host = network.hosts["server2"]
        spared = rules(network.smux)

        async def work() -> None:
            changed = asyncio.Event()
            with Tunnels(MUX, {UPLINK: GATEWAY}) as tunnels:
                prober = Prober(tunnels, "smux1", changed.set)

                async def become(one: bool | None, two: bool | None) -> None:
                    await verdicts({ONE: one, TWO: two})

                async def verdicts(wanted: dict[IPv4Address, bool | None]) -> None:
                    async with asyncio.timeout(30):
                        while {h.dip: h.up for h in prober.report().dips} != wanted:
                            await changed.wait()
                            changed.clear()

                for check in DATAGRAMS:
                    prober.put(held.model_copy(update={"health": check}))
                    await become(*[check is ANSWERED] * 2)
                prober.put(held.model_copy(update={"health": CHECK}))
                await become(True, True)
                host.delete_vip(held.address)
                await become(True, False)
                detail = {h.dip: h.detail for h in prober.report().dips}
                assert "does not answer in 300 ms" in detail[TWO]
                network.put_vip("10.0.0.9", [ONE, TWO])
                await become(True, True)
                prober.delete(held.address)
                assert prober.report().dips == ()
                await prober.close()

        with inside(network.smux):
            asyncio.run(work())
        assert rules(network.smux) == spared, "nothing of the checks is left"
