"""What is wanted of a testbed's devices, what they hold, and where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
from pydantic import TypeAdapter

from controller.records import VipRecord
from controller.updater.devices import Device, MuxDevice, ServerDevice
from controller.updater.plan import DeviceKind, DeviceState, plan_update
from controller.updater.wanted import wanted_states
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.nodes import inventory_of
from mininet_topos.testbed.plan import Plan

_RECORDS = TypeAdapter(list[VipRecord])


def keep(folder: Folder, records: Sequence[VipRecord]) -> None:
    """Write down what a testbed without a controller was given."""
    folder.vips.write_bytes(_RECORDS.dump_json(list(records)))


async def records(folder: Folder) -> list[VipRecord]:
    """Return the VIPs that are wanted: the controller's, or those that a testbed without one was given.

    Raises `RestError` where the controller does not answer, and `TestbedError` where nobody was given any.
    """
    if Plan.load(folder).controller:
        async with agents_module.controller(folder) as controller:
            return await controller.vips()
    try:
        return _RECORDS.validate_json(folder.vips.read_bytes())
    except FileNotFoundError:
        raise TestbedError(f"testbed {folder.name!r} was not given its VIPs") from None


async def observe(agents: Agents) -> dict[str, DeviceState]:
    """Read back what every device holds, as its agent tells. Raises `RestError`."""
    devices: dict[str, Device] = {
        **{name: MuxDevice(client, DeviceKind.SWITCH) for name, client in agents.switches.items()},
        **{name: MuxDevice(client, DeviceKind.SMUX) for name, client in agents.smuxes.items()},
        **{name: ServerDevice(client) for name, client in agents.servers.items()},
    }
    states = await agents_module.gather([device.observe() for device in devices.values()])
    return dict(zip(devices, states, strict=True))


def unsettled(records: Iterable[VipRecord]) -> list[str]:
    """Return which VIPs and TIPs are away from their switch, and which DIPs are without their share."""
    found = []
    for record in records:
        found += [
            f"{address} waits for {carried.returning}"
            for address, carried in record.carried().items()
            if carried.returning is not None
        ]
        found += [f"VIP {record.address} leaves its DIP {dip} out" for dip in sorted(record.left_out())]
    return found


def undone(graph: nx.Graph, records: Iterable[VipRecord], observed: Mapping[str, DeviceState]) -> list[str]:
    """Return what is still to be done on devices for them to hold `records`."""
    wanted = wanted_states(records, inventory_of(graph))
    return [
        f"{step.device}: {step.action} {step.address} ({step.why})"
        for step in plan_update(wanted, observed).steps
    ]
