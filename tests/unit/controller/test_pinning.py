from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from controller.updater.pinning import disturbs, pins
from duet_p4.flow_hash import Flow, flow_hash
from duet_p4.host_agent.model import LiveFlow
from duet_p4.model import Dip, Group, MuxPortGroup, MuxVip, Protocol

VIP = IPv4Address("10.0.0.1")


def dips(count: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.1") + i) for i in range(count))


def live_flows(layout: MuxVip, count: int) -> list[LiveFlow]:
    assert layout.group is not None
    flows = []
    for number in range(count):
        key = Flow(IPv4Address("100.9.0.1"), VIP, 6, 1024 + number, 80)
        flows.append(
            LiveFlow(
                protocol=6,
                source=key.source,
                source_port=key.source_port,
                destination_port=80,
                dip=layout.group.member(flow_hash(key)).address,
            )
        )
    return flows


@given(st.integers(1, 12), st.integers(1, 4))
def test_slots_and_pins_together_keep_every_live_flow_where_it_is(before: int, added: int) -> None:
    old = MuxVip(address=VIP, group=Group.of(dips(before)))
    assert old.group is not None
    new = MuxVip(address=VIP, group=old.group.updated(dips(before + added)))
    assert new.group is not None
    flows = live_flows(old, 200)
    pinned = {(pin.source_port): pin.dip for pin in pins(new, flows)}
    for flow in flows:
        key = Flow(flow.source, VIP, flow.protocol, flow.source_port, flow.destination_port)
        assert pinned.get(flow.source_port, new.group.member(flow_hash(key)).address) == flow.dip
    assert all(
        new.group.member(flow_hash(Flow(flow.source, VIP, 6, flow.source_port, 80))).address != flow.dip
        for flow in flows
        if flow.source_port in pinned
    ), "a flow is pinned that its slot already sends to its DIP"


def test_flows_of_a_dip_that_left_are_not_pinned() -> None:
    old = MuxVip(address=VIP, group=Group.of(dips(3)))
    assert old.group is not None
    new = MuxVip(address=VIP, group=old.group.updated(dips(2)))
    assert all(pin.dip != dips(3)[2].address for pin in pins(new, live_flows(old, 300)))
    assert not disturbs(old, new)


def test_adding_or_draining_a_dip_disturbs_and_an_equal_layout_does_not() -> None:
    old = MuxVip(address=VIP, group=Group.of(dips(3)))
    assert old.group is not None
    drained = (*dips(2), Dip(address=dips(3)[2].address, weight=0))
    assert disturbs(old, MuxVip(address=VIP, group=old.group.updated(dips(4))))
    assert disturbs(old, MuxVip(address=VIP, group=old.group.updated(drained)))
    assert not disturbs(old, old)


def test_a_new_port_group_disturbs_the_flows_that_the_default_group_served() -> None:
    old = MuxVip(address=VIP, group=Group.of(dips(2)))
    port = MuxPortGroup(protocol=Protocol.TCP, port=80, group=Group.of(dips(4)[2:]))
    assert not disturbs(old, MuxVip(address=VIP, group=old.group, ports=(port,)))
    shared = MuxPortGroup(protocol=Protocol.TCP, port=80, group=Group.of(dips(3)))
    assert disturbs(old, MuxVip(address=VIP, group=old.group, ports=(shared,)))
