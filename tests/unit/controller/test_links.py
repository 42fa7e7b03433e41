"""What travels on links, from the counters of the ports at their ends."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from controller.inventory import Inventory, Link, Role, SMux, Switch
from controller.monitoring.links import LinkLoads
from duet_p4.api.mux import MuxStatus, PortStatus, SessionStatus

TOR, AGG = IPv4Address("172.31.0.0"), IPv4Address("172.31.0.1")


def inventory() -> Inventory:
    def switch(name: str, role: Role) -> Switch:
        return Switch(name=name, role=role, agent="http://x", container=1, loopback=IPv4Address("172.30.0.1"))

    return Inventory(
        switches=(switch("tor1", Role.TOR), switch("agg1", Role.AGG)),
        smuxes=(SMux(name="smux1", agent="http://x", switch="tor1", address=IPv4Address("172.30.0.9")),),
        links=(Link(ends=("tor1", "agg1"), capacity_bps=1e9),),
        vip_prefix=IPv4Network("10.0.0.0/16"),
        tip_prefix=IPv4Network("20.0.0.0/24"),
    )


def status(
    name: str, other: str, peer: IPv4Address, received: int, sent: int, *, established: bool = True
) -> MuxStatus:
    return MuxStatus(
        name=name,
        kind="hmux",
        target="xdp",
        uptime_s=1,
        vips=0,
        tips=0,
        announced=0,
        tables={},
        ports=(
            PortStatus(number=1, name="eth1", up=True, peer=peer, received_bytes=received, sent_bytes=sent),
        ),
        sessions=(SessionStatus(name=other, neighbor=peer, asn=1, established=established, state="x"),),
        writes=0,
    )


def test_the_load_is_what_was_sent_since_the_last_look() -> None:
    loads = LinkLoads(inventory())
    loads.note({"tor1": status("tor1", "agg1", AGG, 1000, 5000)}, 10.0)
    assert loads.links()[0].bps == (0, 0)
    loads.note({"tor1": status("tor1", "agg1", AGG, 2000, 9000)}, 12.0)
    link = loads.links()[0]
    assert (link.ends, link.capacity_bps, link.up) == (("tor1", "agg1"), 1e9, True)
    assert link.bps == (pytest.approx(16_000), pytest.approx(4_000))


def test_the_other_end_tells_where_one_does_not() -> None:
    loads = LinkLoads(inventory())
    loads.note({"agg1": status("agg1", "tor1", TOR, 1000, 5000)}, 10.0)
    loads.note({"agg1": status("agg1", "tor1", TOR, 2000, 9000)}, 12.0)
    assert loads.links()[0].bps == (pytest.approx(4_000), pytest.approx(16_000))


def test_a_counter_that_begins_anew_is_no_load() -> None:
    loads = LinkLoads(inventory())
    for when, count in ((10.0, 50_000), (12.0, 100), (14.0, 1100)):
        loads.note({"tor1": status("tor1", "agg1", AGG, count, count)}, when)
        if count == 100:
            assert loads.links()[0].bps == (0, 0)
    assert loads.links()[0].bps == (pytest.approx(4000), pytest.approx(4000))


def test_a_link_is_down_where_an_end_says_so_and_unknown_where_none_answers() -> None:
    loads = LinkLoads(inventory())
    loads.note({}, 1.0)
    assert [link.up for link in loads.links()] == [None, None]
    up = status("tor1", "agg1", AGG, 0, 0)
    loads.note({"tor1": up, "agg1": status("agg1", "tor1", TOR, 0, 0, established=False)}, 2.0)
    assert loads.links()[0].up is False
    assert loads.links()[1].ends == ("tor1", "smux1")
