"""What every device shall hold, given all wanted VIPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory
from controller.store import VipRecord
from controller.updater.plan import DeviceKind, DeviceState, Entry
from duet_p4.api.host import HostVip
from duet_p4.model import Dip


def wanted_states(records: Iterable[VipRecord], inventory: Inventory) -> dict[str, DeviceState]:
    """Return the state of every device.

    The SMuxes hold everything, a switch what is placed on it, a server the VIPs of its DIPs.
    """
    wanted = {switch.name: DeviceState(DeviceKind.SWITCH) for switch in inventory.switches}
    wanted |= {smux.name: DeviceState(DeviceKind.SMUX) for smux in inventory.smuxes}
    wanted |= {server.name: DeviceState(DeviceKind.SERVER) for server in inventory.servers}
    smuxes = [smux.name for smux in inventory.smuxes]
    for record in records:
        for entry, switch in mux_entries(record).values():
            for name in [*smuxes, *([switch] if switch in wanted else [])]:
                _hold(wanted[name], entry)
        for name, vip in _host_vips(record, inventory).items():
            _hold(wanted[name], vip)
    return wanted


def _hold(state: DeviceState, entry: Entry) -> None:
    state.entries[entry.address] = entry
    state.announced.add(entry.address)


def _host_vips(record: VipRecord, inventory: Inventory) -> dict[str, HostVip]:
    """Return what each server holds of a VIP. DIPs of no server in the inventory are others' to set up."""

    def name_of(dip: Dip) -> str | None:
        server = inventory.server_at(dip.encap)
        return server.name if server else None

    return HostVip.spread(record.spec, record.layout, [placed.tip for placed in record.tips], name_of)


def mux_entries(record: VipRecord) -> Mapping[IPv4Address, tuple[Entry, str | None]]:
    """Return what the muxes hold for a VIP, itself and its TIPs, each with the switch that carries it."""
    placed: dict[IPv4Address, tuple[Entry, str | None]] = {record.address: (record.layout, record.switch)}
    return placed | {tip.tip.address: (tip.tip, tip.switch) for tip in record.tips}
