from ipaddress import IPv4Address

import pytest
from pydantic import ValidationError

from duet_p4.api.host import ELSEWHERE, HostDip, HostPort, HostVip, Snat
from duet_p4.model import Dip, Group, MuxTip, MuxVip, PinnedFlow, PortGroup, Protocol, Vip

LOCAL = {IPv4Address("100.1.1.1"), IPv4Address("100.1.1.2")}


def server_of(dip: Dip) -> str | None:
    return "here" if dip.encap in LOCAL else None


def held_here(vip: Vip, layout: MuxVip, tips: tuple[MuxTip, ...] = ()) -> HostVip | None:
    return HostVip.spread(vip, layout, tips, server_of).get("here")


def test_a_server_gets_its_own_dips_of_a_vip() -> None:
    vip = Vip(
        address="10.0.0.1",
        dips=(Dip(address="100.1.1.1"), Dip(address="100.1.9.9")),
        ports=(PortGroup(protocol=Protocol.TCP, port=21, dips=(Dip(address="100.1.1.2"),)),),
    )
    held = held_here(vip, MuxVip.of(vip))
    assert held is not None and held.snat is None
    assert held.dips == (
        HostDip(address="100.1.1.1"),
        HostDip(address="100.1.1.2", default=False, ports=(HostPort(protocol=Protocol.TCP, port=21),)),
    )


def test_a_server_without_dips_of_a_vip_gets_nothing() -> None:
    vip = Vip(address="10.0.0.1", dips=(Dip(address="100.1.9.9"),))
    assert held_here(vip, MuxVip.of(vip)) is None


def test_each_server_gets_a_share_and_dips_of_no_server_are_left_out() -> None:
    vip = Vip(address="10.0.0.1", dips=tuple(Dip(address=f"100.1.{net}.1") for net in (1, 2, 3)))
    names = {IPv4Address("100.1.1.1"): "a", IPv4Address("100.1.2.1"): "b"}
    shares = HostVip.spread(vip, MuxVip.of(vip), (), lambda dip: names.get(dip.encap))
    assert {name: [str(dip.address) for dip in held.dips] for name, held in shares.items()} == {
        "a": ["100.1.1.1"],
        "b": ["100.1.2.1"],
    }


def test_a_virtual_machine_is_local_by_its_host() -> None:
    vip = Vip(address="10.0.0.1", dips=(Dip(address="100.9.9.9", host="100.1.1.1"),))
    held = held_here(vip, MuxVip.of(vip))
    assert held is not None
    assert held.dips[0].tunnel_end == IPv4Address("100.1.1.1")


def test_snat_brings_the_slots_and_the_tips_that_lead_here() -> None:
    vip = Vip(address="10.0.0.1", dips=tuple(Dip(address=f"100.1.{n}.1") for n in (1, 2, 3)), snat=True)
    tips = tuple(
        MuxTip(address=f"20.0.0.{n}", group=Group.of((Dip(address=f"100.1.{n}.1"), Dip(address="100.9.9.9"))))
        for n in (1, 2, 3)
    )
    layout = MuxVip(address="10.0.0.1", group=Group.of(tuple(Dip(address=tip.address) for tip in tips[:2])))
    held = held_here(vip, layout, tips)
    assert held is not None and held.snat == Snat()
    (group,) = held.groups
    assert (group.share.members, set(group.share.slots)) == ((tips[0].address,), {0, ELSEWHERE})
    (tip,) = held.tips
    assert (tip.address, tip.share.members) == (tips[0].address, (IPv4Address("100.1.1.1"),))
    assert [slot == 0 for slot in tip.share.slots] == [slot == 0 for slot in tips[0].group.slots]


def test_a_vip_of_many_dips_has_more_ports_for_snat() -> None:
    dips = tuple(Dip(address=f"100.1.1.{n}") for n in range(1, 40))
    few, many = (Vip(address="10.0.0.1", dips=part, snat=True) for part in (dips[:32], dips))
    first_ports = [
        held.snat.first_port for v in (few, many) if (held := held_here(v, MuxVip.of(v))) and held.snat
    ]
    assert first_ports == [32_768, 1024]


def test_ports_of_groups_are_none_for_snat() -> None:
    ftp = PortGroup(protocol=Protocol.TCP, port=50_021, dips=(Dip(address="100.1.1.2"),))
    vip = Vip(address="10.0.0.1", dips=(Dip(address="100.1.1.1"),), ports=(ftp,), snat=True)
    held = held_here(vip, MuxVip.of(vip))
    assert held is not None and held.snat is not None
    assert held.snat.reserved == (HostPort(protocol=Protocol.TCP, port=50_021),)


def test_snat_of_a_vip_with_ports_only_is_refused() -> None:
    ftp = PortGroup(protocol=Protocol.TCP, port=21, dips=(Dip(address="100.1.1.2"),))
    with pytest.raises(ValidationError, match=r"VIP 10\.0\.0\.1 has DIPs for single ports only"):
        Vip(address="10.0.0.1", ports=(ftp,), snat=True)


def test_only_who_shares_a_tunnel_end_needs_the_slots() -> None:
    host = IPv4Address("100.1.1.1")
    shared = tuple(Dip(address=f"100.9.9.{n}", host=host) for n in (1, 2))
    alone, elsewhere = Dip(address="100.1.1.2"), Dip(address="100.1.3.1")
    http = PortGroup(protocol=Protocol.TCP, port=80, dips=(shared[1], elsewhere))
    away = PortGroup(protocol=Protocol.TCP, port=81, dips=(elsewhere,))
    vip = Vip(address="10.0.0.1", dips=(*shared, elsewhere), ports=(http, away))
    pins = tuple(
        PinnedFlow(protocol=6, source="192.0.2.1", source_port=port, destination_port=22, dip=dip.address)
        for port, dip in ((1, shared[0]), (2, elsewhere))
    )
    held = held_here(vip, MuxVip.of(vip).model_copy(update={"pinned": pins}))
    assert held is not None
    assert [group.key for group in held.groups] == [(0, 0), (6, 80)]
    assert held.groups[0].share.members == tuple(dip.address for dip in shared)
    assert held.groups[1].share.members == (shared[1].address,)
    assert held.pinned == pins[:1]
    single = Vip(address="10.0.0.1", dips=(alone, elsewhere))
    other = held_here(single, MuxVip.of(single))
    assert other is not None and other.groups == ()


@pytest.mark.parametrize(
    ("dips", "reason"),
    [
        ([{"address": "100.1.1.1"}, {"address": "100.1.1.1"}], r"states DIP 100\.1\.1\.1 twice"),
        ([{"address": "10.0.0.1"}], "is its own DIP"),
        ([{"address": f"100.1.1.{n}", "host": "100.1.1.99"} for n in range(1, 18)], "17 DIPs behind"),
        ([], "at least 1"),
    ],
)
def test_contradictions_are_refused(dips: list[dict[str, str]], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        HostVip.model_validate({"address": "10.0.0.1", "dips": dips})


def test_a_port_range_must_be_one() -> None:
    with pytest.raises(ValidationError, match="5000 to 4000 are no range"):
        Snat(first_port=5000, last_port=4000)
