"""What every device shall hold, given all wanted VIPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory, Server
from controller.store import VipRecord
from controller.updater.plan import DeviceKind, DeviceState, Entry
from duet_p4.host_agent.model import HostVip
from duet_p4.model import Dip


def wanted_states(records: Iterable[VipRecord], inventory: Inventory) -> dict[str, DeviceState]:
    """Return the state of every device.

    The SMuxes hold everything, a switch what is placed on it, a server the VIPs of its DIPs.
    """
    wanted = {switch.name: DeviceState(DeviceKind.SWITCH) for switch in inventory.switches}
    wanted |= {smux.name: DeviceState(DeviceKind.SMUX) for smux in inventory.smuxes}
    wanted |= {server.name: DeviceState(DeviceKind.SERVER) for server in inventory.servers}
    smuxes = [smux.name for smux in inventory.smuxes]
    server_of = inventory.server_of()
    for record in records:
        for entry, switch in mux_entries(record).values():
            for name in [*smuxes, *([switch] if switch in wanted else [])]:
                _hold(wanted[name], entry)
        for name, vip in _host_vips(record, server_of).items():
            _hold(wanted[name], vip)
    return wanted


def _hold(state: DeviceState, entry: Entry) -> None:
    state.entries[entry.address] = entry
    state.announced.add(entry.address)


def _host_vips(record: VipRecord, server_of: Mapping[IPv4Address, Server]) -> dict[str, HostVip]:
    """Return what each server holds of a VIP. DIPs of no server in the inventory are others' to set up."""
    tips = [placed.tip for placed in record.tips]
    found = {}
    for name in {server_of[dip.encap].name for dip in record.spec.all_dips() if dip.encap in server_of}:

        def is_local(dip: Dip, name: str = name) -> bool:
            return dip.encap in server_of and server_of[dip.encap].name == name

        vip = HostVip.of(record.spec, record.layout, tips, is_local)
        if vip is not None:
            found[name] = vip
    return found


def mux_entries(record: VipRecord) -> Mapping[IPv4Address, tuple[Entry, str | None]]:
    """Return what the muxes hold for a VIP, itself and its TIPs, each with the switch that carries it."""
    placed: dict[IPv4Address, tuple[Entry, str | None]] = {record.address: (record.layout, record.switch)}
    return placed | {tip.tip.address: (tip.tip, tip.switch) for tip in record.tips}
