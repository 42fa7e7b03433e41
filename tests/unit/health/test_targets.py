"""Whom checks ask: those that serve the port asked for, and those that are out of service by it."""

from ipaddress import IPv4Address

import pytest
from pydantic import ValidationError

from controller.updater.layout import Down, change, lay_out
from controller.updater.wanted import mux_entries
from duet_p4.api.host import HostVip
from duet_p4.health.monitor import Target
from duet_p4.host_agent import service
from duet_p4.model import (
    VIP_CHECK,
    Checked,
    Dip,
    Group,
    HealthCheck,
    HealthCheckKind,
    MuxTip,
    MuxVip,
    PortGroup,
    Protocol,
    Vip,
)
from duet_p4.smux import prober

ADDRESS, TIP = IPv4Address("10.0.0.1"), IPv4Address("20.0.0.1")
A, B, C = (Dip(address=f"100.1.1.{n}") for n in (1, 2, 3))
CHECK = HealthCheck(port=80)
FTP = HealthCheck(port=21)


def port(number: int, *dips: Dip, health: HealthCheck | None = None) -> PortGroup:
    return PortGroup(protocol=Protocol.TCP, port=number, dips=dips, health=health)


def by_servers(vip: Vip) -> dict[Checked, Target]:
    """Return whom the server of all DIPs asks."""
    (held,) = HostVip.spread(vip, MuxVip.of(vip), (), lambda dip: "server1").values()
    return service.targets(held)


def by_smuxes(vip: Vip, *down: Checked) -> dict[Checked, Target]:
    """Return whom an SMux asks while some DIPs are out of service."""
    before = lay_out(vip, 512, lambda: TIP)
    mux, _ = mux_entries(change(before, vip, Down(failed=frozenset(down)), 512, lambda: TIP))[ADDRESS]
    assert isinstance(mux, MuxVip)
    return prober.targets(mux, {})


VIPS = {
    "default group": (
        Vip(address=ADDRESS, dips=(A, B), health=CHECK),
        {Checked(A.address), Checked(B.address)},
    ),
    "who serves the port": (
        Vip(address=ADDRESS, ports=(port(80, A), port(21, A, B)), health=CHECK),
        {Checked(A.address)},
    ),
    "a port without a group": (
        Vip(address=ADDRESS, dips=(A, B), ports=(port(21, B, C),), health=CHECK),
        {Checked(A.address), Checked(B.address)},
    ),
    "the port's own check": (
        Vip(address=ADDRESS, dips=(A, B), ports=(port(21, B, C, health=FTP),), health=CHECK),
        {Checked(A.address), Checked(B.address), Checked(B.address, "tcp/21"), Checked(C.address, "tcp/21")},
    ),
    "nobody": (Vip(address=ADDRESS, dips=(A,)), set()),
}


@pytest.mark.parametrize(("vip", "asked"), VIPS.values(), ids=list(VIPS))
def test_servers_and_smuxes_ask_whom_a_check_is_about(vip: Vip, asked: set[Checked]) -> None:
    own = {VIP_CHECK: CHECK, "tcp/21": FTP}
    assert by_servers(vip) == {checked: Target(own[checked.check]) for checked in asked}
    assert by_smuxes(vip) == {checked: Target(own[checked.check], checked.dip) for checked in asked}


@pytest.mark.parametrize(("vip", "asked"), VIPS.values(), ids=list(VIPS))
def test_smuxes_go_on_asking_who_is_out_of_service(vip: Vip, asked: set[Checked]) -> None:
    for down in asked:
        assert by_smuxes(vip, down).keys() == asked, f"{down} could not be seen to return"


def test_smuxes_ask_who_is_behind_a_tip_and_leave_vms_to_their_host() -> None:
    vm = Dip(address="100.1.1.9", host=A.address)
    group = Group.of((Dip(address=TIP), C, vm))
    mux = MuxVip(address=ADDRESS, group=group, health=CHECK)
    tips = {TIP: MuxTip(address=TIP, group=Group.of((A, B)))}
    assert prober.targets(mux, tips) == {
        Checked(dip.address): Target(CHECK, dip.address) for dip in (A, B, C)
    }


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        (
            {"ports": (port(21, A),), "health": CHECK},
            "10.0.0.1 is checked on port tcp/80, which no DIP of it serves",
        ),
        (
            {"dips": (A,), "ports": (port(80, B), port(21, A, B, health=CHECK))},
            "port tcp/21 is checked on port tcp/80, which its DIP 100.1.1.1 does not serve",
        ),
        (
            {"ports": (port(21, A, health=HealthCheck(kind=HealthCheckKind.DNS, port=53)),)},
            "port tcp/21 is checked on port udp/53, which its DIP 100.1.1.1 does not serve",
        ),
    ],
)
def test_a_check_that_asks_nobody_is_refused(stated: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Vip.model_validate({"address": ADDRESS, **stated})
