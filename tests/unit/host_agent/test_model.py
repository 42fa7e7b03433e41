from ipaddress import IPv4Address

import pytest
from pydantic import ValidationError

from duet_p4.api.host import HostDip, HostPort, HostVip, Snat
from duet_p4.model import Dip, Group, MuxTip, MuxVip, PortGroup, Protocol, Vip

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
        HostDip(address="100.1.1.2", ports=(HostPort(protocol=Protocol.TCP, port=21),)),
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


def test_snat_brings_the_slots_and_the_tips_among_them() -> None:
    vip = Vip(address="10.0.0.1", dips=(Dip(address="100.1.1.1"),), snat=True)
    tips = tuple(
        MuxTip(address=f"20.0.0.{n}", group=Group.of((Dip(address=f"100.1.1.{n}"),))) for n in (1, 2, 3)
    )
    layout = MuxVip(address="10.0.0.1", group=Group.of(tuple(Dip(address=tip.address) for tip in tips[:2])))
    held = held_here(vip, layout, tips)
    assert held is not None and held.snat is not None
    assert (held.snat.group, held.snat.tips) == (layout.group, tips[:2])


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
        Snat(group=Group.of((Dip(address="100.1.1.1"),)), first_port=5000, last_port=4000)
