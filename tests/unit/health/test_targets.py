"""Which DIPs are checked: those that serve the port that the check asks for."""

from ipaddress import IPv4Address

from duet_p4.api.host import HostDip, HostPort, HostVip
from duet_p4.health.monitor import Target
from duet_p4.host_agent.service import targets
from duet_p4.model import HealthCheck, Protocol

A, B, C = (IPv4Address(f"100.1.1.{n}") for n in (1, 2, 3))
CHECK = HealthCheck(port=80)


def test_a_server_checks_only_dips_that_serve_the_port() -> None:
    http, ftp = (HostPort(protocol=Protocol.TCP, port=port) for port in (80, 21))
    dips = (HostDip(address=A), HostDip(address=B, ports=(ftp,)), HostDip(address=C, ports=(ftp, http)))
    vip = HostVip(address="10.0.0.1", dips=dips, health=CHECK)
    assert targets(vip) == {A: Target(CHECK), C: Target(CHECK)}
    assert targets(vip.model_copy(update={"health": None})) == {}
