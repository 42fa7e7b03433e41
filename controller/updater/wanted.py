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
    entries = Wanted(inventory)
    for record in records:
        for name, entry in entries.of(record):
            wanted[name].hold(entry)
    return wanted


class Wanted:
    """What devices shall hold of VIPs.

    What servers shall is made once for a spec and its layout: it takes long, is asked for often, and changes
    with neither when a VIP moves.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._at_servers: dict[IPv4Address, tuple[VipRecord, dict[str, HostVip]]] = {}

    def of(self, record: VipRecord) -> Iterator[tuple[str, Entry]]:
        """Yield what each device holds of one VIP and its TIPs, all of it announced."""
        for entry, switch in mux_entries(record).values():
            for smux in self._inventory.smuxes:
                yield smux.name, entry
            if switch is not None and self._inventory.has_switch(switch):
                yield switch, entry
        yield from self._servers(record).items()

    def on(self, device: str, kind: DeviceKind, state: State) -> DeviceState:
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
                if record_of is not None and (held := self._servers(record_of).get(device)):
                    wanted.hold(held)
        return wanted

    def forget(self, vip: IPv4Address) -> None:
        """Forget a VIP that is wanted no more."""
        self._at_servers.pop(vip, None)

    def _servers(self, record: VipRecord) -> dict[str, HostVip]:
        known = self._at_servers.get(record.address)
        if known is not None and _laid_out_alike(known[0], record):
            return known[1]
        held = host_vips(record, self._inventory)
        self._at_servers[record.address] = record, held
        return held


def _laid_out_alike(one: VipRecord, other: VipRecord) -> bool:
    """Whether two records of a VIP have the very same spec, layout and TIPs."""
    return (
        one.spec is other.spec
        and one.layout is other.layout
        and len(one.tips) == len(other.tips)
        and all(mine.tip is theirs.tip for mine, theirs in zip(one.tips, other.tips, strict=True))
    )


def host_vips(record: VipRecord, inventory: Inventory) -> dict[str, HostVip]:
    """Return what each server holds of a VIP. DIPs of no server in the inventory are others' to set up."""

    def name_of(dip: Dip) -> str | None:
        server = inventory.server_at(dip.encap)
        return server.name if server else None

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
