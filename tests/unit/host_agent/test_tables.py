"""A change of some VIPs leaves the tables as they would be if all VIPs had been stated at once."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from duet_p4.api.host import HostDip, HostPort, HostVip, Snat
from duet_p4.host_agent.tables import Tables
from duet_p4.model import PinnedFlow, Protocol

VIPS = [IPv4Address(f"10.0.0.{n}") for n in (1, 2, 3, 4)]
DIPS = [IPv4Address(f"100.1.1.{n}") for n in (1, 2, 3)]
HOST = IPv4Address("100.1.1.250")
METERS = {(vip, dip): number for number, (vip, dip) in enumerate((v, d) for v in VIPS for d in DIPS)}
PORTS = [HostPort(protocol=Protocol.TCP, port=port) for port in (80, 40_000)]


@st.composite
def vips(draw: st.DrawFn, address: IPv4Address) -> HostVip:
    dips = []
    for dip in draw(st.lists(st.sampled_from(DIPS), min_size=1, max_size=3, unique=True)):
        ports = tuple(draw(st.lists(st.sampled_from(PORTS), max_size=2, unique=True)))
        host = draw(st.sampled_from([None, None, HOST, DIPS[0]]))
        default = draw(st.booleans()) or not ports
        dips.append(HostDip(address=dip, host=host, default=default, ports=ports))
    pinned = PinnedFlow(
        protocol=6, source="192.0.2.7", source_port=1, destination_port=80, dip=dips[0].address
    )
    return HostVip(
        address=address,
        dips=tuple(dips),
        pinned=(pinned,) if draw(st.booleans()) else (),
        snat=draw(st.sampled_from([None, Snat(), Snat(reserved=(PORTS[0],))])),
    )


def change(tables: Tables, new: Mapping[IPv4Address, HostVip | None]) -> None:
    tables.commit(tables.plan(new, tables.touched(new), METERS, {}, ()))


@given(st.data())
def test_rows_do_not_depend_on_the_way_that_led_to_the_vips(data: st.DataObject) -> None:
    stepwise = Tables(first_ephemeral=32_768)
    for _ in range(data.draw(st.integers(1, 6))):
        some = data.draw(st.lists(st.sampled_from(VIPS), min_size=1, unique=True))
        change(stepwise, {vip: data.draw(st.none() | vips(vip)) for vip in some})
    at_once = Tables(first_ephemeral=32_768)
    change(at_once, stepwise.vips)
    assert stepwise.plain == at_once.plain
    assert stepwise.services == at_once.services
    change(stepwise, dict.fromkeys(VIPS))
    assert not any(stepwise.plain.values()) and not stepwise.services and not stepwise.vips


def test_a_change_states_only_the_rows_that_it_makes_different() -> None:
    tables = Tables(first_ephemeral=32_768)
    one, other = (HostVip(address=vip, dips=(HostDip(address=DIPS[0]),)) for vip in VIPS[:2])
    change(tables, {one.address: one})
    planned = tables.plan({other.address: other}, tables.touched({other.address: other}), METERS, {}, ())
    assert [len(rows) for rows in planned.plain.values()] == [0, 0, 0, 0, 1], (
        "whose replies are is not known now"
    )
    assert len(planned.services) == 1
    again = tables.plan({one.address: one}, tables.touched({one.address: one}), METERS, {}, ())
    assert not any(again.plain.values()) and not again.services
