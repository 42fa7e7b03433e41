"""What every device shall hold, given all wanted VIPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory
from controller.store import VipRecord
from controller.updater.plan import DeviceKind, DeviceState, Entry


def wanted_states(records: Iterable[VipRecord], inventory: Inventory) -> dict[str, DeviceState]:
    """Return the state of every device: the SMuxes hold everything, a switch what is placed on it."""
    wanted = {switch.name: DeviceState(DeviceKind.SWITCH) for switch in inventory.switches}
    wanted |= {smux.name: DeviceState(DeviceKind.SMUX) for smux in inventory.smuxes}
    smuxes = [smux.name for smux in inventory.smuxes]
    for record in records:
        for address, (entry, switch) in mux_entries(record).items():
            for name in [*smuxes, *([switch] if switch in wanted else [])]:
                wanted[name].entries[address] = entry
                wanted[name].announced.add(address)
    return wanted


def mux_entries(record: VipRecord) -> Mapping[IPv4Address, tuple[Entry, str | None]]:
    """Return what the muxes hold for a VIP, itself and its TIPs, each with the switch that carries it."""
    placed: dict[IPv4Address, tuple[Entry, str | None]] = {record.address: (record.layout, record.switch)}
    return placed | {tip.tip.address: (tip.tip, tip.switch) for tip in record.tips}
