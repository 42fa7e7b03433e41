"""What every device shall hold, given the wanted VIPs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory
from controller.records import VipRecord
from controller.state import State
from controller.updater.plan import DeviceKind, DeviceState, Entry
from duet_p4.api.host import HostVip
from duet_p4.model import VIP_CHECK, Away, Checked, Dip, MuxVip


def kinds_of(inventory: Inventory) -> dict[str, DeviceKind]:
    """Return every device, and what it is."""
    kinds = dict.fromkeys((switch.name for switch in inventory.switches), DeviceKind.SWITCH)
    kinds |= dict.fromkeys((smux.name for smux in inventory.smuxes), DeviceKind.SMUX)
    return kinds | dict.fromkeys((server.name for server in inventory.servers), DeviceKind.SERVER)


def wanted_states(records: Iterable[VipRecord], inventory: Inventory) -> dict[str, DeviceState]:
    """Return the state of every device.

    The SMuxes hold everything, a switch what is placed on it, a server the VIPs of its DIPs.
    """
    wanted = {name: DeviceState(kind) for name, kind in kinds_of(inventory).items()}
    for record in records:
        for name, entry in entries_of(record, inventory):
            wanted[name].hold(entry)
    return wanted


def entries_of(record: VipRecord, inventory: Inventory) -> Iterator[tuple[str, Entry]]:
    """Yield what each device holds of one VIP and its TIPs, all of it announced."""
    for entry, switch in mux_entries(record).values():
        for smux in inventory.smuxes:
            yield smux.name, entry
        if switch is not None and inventory.has_switch(switch):
            yield switch, entry
    yield from host_vips(record, inventory).items()


def wanted_of(device: str, kind: DeviceKind, state: State, inventory: Inventory) -> DeviceState:
    """Return all that one device shall hold."""
    wanted = DeviceState(kind)
    if kind is DeviceKind.SMUX:
        for record in state.records():
            for entry, _ in mux_entries(record).values():
                wanted.hold(entry)
    elif kind is DeviceKind.SWITCH:
        for address in sorted(state.on(device)):
            owner = state.get(state.owner(address) or address)
            if owner is not None:
                wanted.hold(mux_entries(owner)[address][0])
    else:
        for vip in sorted(state.at_server(device)):
            record_of = state.get(vip)
            if record_of is not None:
                for entry in host_vips(record_of, inventory, only=device).values():
                    wanted.hold(entry)
    return wanted


def host_vips(record: VipRecord, inventory: Inventory, only: str | None = None) -> dict[str, HostVip]:
    """Return what each server, or one only, holds of a VIP.

    DIPs of no server in the inventory are others' to set up.
    """

    def name_of(dip: Dip) -> str | None:
        server = inventory.server_at(dip.encap)
        return server.name if server and only in (None, server.name) else None

    return HostVip.spread(record.spec, record.layout, [placed.tip for placed in record.tips], name_of)


def mux_entries(record: VipRecord) -> Mapping[IPv4Address, tuple[Entry, str | None]]:
    """Return what the muxes hold for a VIP, itself and its TIPs, each with the switch that carries it."""
    placed: dict[IPv4Address, tuple[Entry, str | None]] = {record.address: (_checked(record), record.switch)}
    return placed | {tip.tip.address: (tip.tip, tip.switch) for tip in record.tips}


def _checked(record: VipRecord) -> MuxVip:
    """Return a VIP's layout with how its DIPs are checked, and who is to be asked though out of service."""
    spec, layout = record.spec, record.layout
    if not spec.checks():
        return layout
    checks = {VIP_CHECK: VIP_CHECK} | {port.name: port.check for port in spec.ports}
    asked = {name: {dip.address for dip in dips} for name, dips in spec.asked().items()}
    away = {
        Checked(dip.address, checks[name]): Away(dip=dip, check=checks[name])
        for name, dips in record.away().items()
        for dip in dips
        if dip.address in asked.get(checks[name], ())
    }
    own = {port.name: port.health for port in spec.ports}
    ports = tuple(port.model_copy(update={"health": own.get(port.name)}) for port in layout.ports)
    return layout.model_copy(
        update={"health": spec.health, "ports": ports, "away": tuple(away[one] for one in sorted(away))}
    )
