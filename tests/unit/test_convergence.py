"""What a switch's rows say, read without its agent, against what its VIPs ask for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from duet_p4.hmux.rows import HostRow, SlotRow, VipRow
from duet_p4.hmux.tables import VipTables
from duet_p4.model import Dip, Group, MuxTip, MuxVip, PinnedFlow, PortGroup, Protocol, Vip
from mininet_topos.experiments.convergence import Tunnels, programmed, spelled_out

VIP = MuxVip.of(
    Vip(
        address="10.0.0.1",
        dips=(Dip(address="100.0.0.1", weight=3), Dip(address="100.0.0.2", host="100.0.0.9")),
        ports=(PortGroup(protocol=Protocol.TCP, port=80, dips=(Dip(address="100.0.0.3"),)),),
    )
).model_copy(
    update={
        "pinned": (
            PinnedFlow(
                protocol=6, source="100.9.0.1", source_port=5000, destination_port=443, dip="100.0.0.2"
            ),
        )
    }
)
TIP = MuxTip(address="20.0.0.1", group=Group.of((Dip(address="100.0.0.4"), Dip(address="100.0.0.5"))))


def rows() -> list[VipRow]:
    tables = VipTables({"host": 4, "acl": 4, "ecmp": 64, "tunneling": 8, "pinned": 4})
    tables.apply(tables.put_vip(VIP))
    tables.apply(tables.put_tip(TIP))
    return tables.rows()


def wanted() -> Tunnels:
    return spelled_out(VIP) | spelled_out(TIP)


def test_the_rows_of_a_switch_read_as_the_vips_it_was_given() -> None:
    assert programmed(rows()) == wanted()
    assert set(wanted()["10.0.0.1"]) == {"100.0.0.1", "100.0.0.9"}, "a virtual DIP is reached at its host"


def test_a_slot_that_leads_elsewhere_or_nowhere_shows() -> None:
    held = rows()
    host = next(row for row in held if isinstance(row, HostRow) and row.address == IPv4Address("10.0.0.1"))
    first = next(row for row in held if isinstance(row, SlotRow) and row.slot == host.first)
    without = [row for row in held if row is not first]
    assert programmed(without)["10.0.0.1"][0] == "nowhere"
    astray = programmed([*without, replace(first, tunnel=first.tunnel + 50)])
    assert astray["10.0.0.1"][0] == "nowhere"
    assert astray["20.0.0.1"] == wanted()["20.0.0.1"]
