"""Typed clients of the controller's three modules."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from controller.audit import KIND, Noted, Stated
from controller.cluster.status import ClusterStatus
from controller.engine import Explanation
from controller.engine.live.api import AssignmentRequest, AssignmentResult
from controller.inventory import Inventory
from controller.monitoring.agents import AgentState
from controller.monitoring.flows import Flows, Wanted
from controller.monitoring.network import NetworkState
from controller.reach import ReachMap
from controller.records import Event, RecordFeed, TrafficSample, VipRecord
from controller.updater.api import DipHealth, Target, VipHealth
from controller.updater.apply import Applied, Apply, Gone, WantedVip
from controller.updater.operations import LongOperation, Phase
from controller.updater.outcome import Report
from controller.updater.plan import Plan
from controller.updater.reads import PAGE, Assignment, Placement
from controller.updater.status import DeviceStatus, UpdaterStatus, Why
from duet_p4.api.mux import Draining
from duet_p4.model import VIP_CHECK, Vip
from duet_p4.rest.client import BULK_TIMEOUT_S, RestClient, RestError

EVENTS_PAGE = 1000

APPLIED_AT_ONCE = 500
"""How many VIPs one request of many states."""

_LOOK_S = 0.5
"""How often progress is asked for."""

LONG_S = 600.0
"""How long a client waits for what goes over all VIPs."""


def local_socket(folder: Path) -> Path:
    """Return the Unix socket in a folder of a controller that answers; `controller.sock` where none does."""
    for path in sorted(folder.glob("controller*.sock")):
        with socket.socket(socket.AF_UNIX) as tried, suppress(OSError):
            tried.connect(str(path))
            return path
    return folder / "controller.sock"


class UpdaterClient(RestClient):
    """Calls the assignment updater. A `revision` makes a change one of that revision of the VIP, or none."""

    async def vips(self, switch: str | None = None, dip: IPv4Address | None = None) -> list[VipRecord]:
        """Return every wanted VIP, or those on a switch, or with a DIP."""
        found: list[VipRecord] = []
        while True:
            query = {"after": found[-1].address if found else None, "switch": switch, "dip": dip}
            page = await self.call("GET", "/v1/vips", list[VipRecord], query=query)
            found += page
            if len(page) < PAGE:
                return found

    async def vip(self, address: IPv4Address) -> VipRecord:
        """Return one wanted VIP."""
        return await self.call("GET", f"/v1/vips/{address}", VipRecord)

    async def why(self, address: IPv4Address) -> Why:
        """Say why a VIP is where it is, and what it waits for."""
        return await self.call("GET", f"/v1/vips/{address}/why", Why)

    async def add_vip(self, vip: Vip, switch: str | None = None) -> VipRecord:
        """Add a VIP, on `switch` or wherever the engine says."""
        return await self.call("POST", "/v1/vips", VipRecord, body=vip, query={"switch": switch})

    async def change_vip(self, vip: Vip, revision: int | None = None) -> VipRecord:
        """Replace a VIP's DIPs, weights or options."""
        path = f"/v1/vips/{vip.address}"
        return await self.call("PUT", path, VipRecord, body=vip, headers=_if_match(revision))

    async def apply(self, request: Apply) -> list[Applied]:
        """State many VIPs, and remove others."""
        return await self.call("POST", "/v1/vips/apply", list[Applied], body=request, timeout_s=LONG_S)

    async def apply_all(
        self,
        vips: Sequence[WantedVip],
        gone: Sequence[Gone] = (),
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[Applied]:
        """State any number of VIPs, and remove others; return what came of each, in order.

        Requests are of a few hundred. While the controller waits for its devices with one, it takes in the
        next. `advance` is told how many have been done.
        """
        starts = range(0, len(vips), APPLIED_AT_ONCE)
        parts = [Apply(vips=tuple(vips[first : first + APPLIED_AT_ONCE])) for first in starts]
        starts = range(0, len(gone), APPLIED_AT_ONCE)
        parts += [Apply(remove=tuple(gone[first : first + APPLIED_AT_ONCE])) for first in starts]
        limit = asyncio.Semaphore(2)

        done = 0

        async def carry_out(part: Apply) -> list[Applied]:
            nonlocal done
            async with limit:
                applied = await self.apply(part)
            done += len(applied)
            advance(done)
            return applied

        tasks = [asyncio.create_task(carry_out(part)) for part in parts]
        try:
            return [one for applied in await asyncio.gather(*tasks) for one in applied]
        finally:
            for task in tasks:
                task.cancel()

    async def remove_vip(self, address: IPv4Address, revision: int | None = None) -> None:
        """Remove a VIP."""
        await self.call("DELETE", f"/v1/vips/{address}", type(None), headers=_if_match(revision))

    async def migrate(self, address: IPv4Address, switch: str | None, revision: int | None = None) -> Report:
        """Move a VIP by hand to a switch, or to the SMuxes."""
        path, body = f"/v1/vips/{address}/migrate", Target(switch=switch)
        return await self.call("POST", path, Report, body=body, headers=_if_match(revision))

    async def release(self, address: IPv4Address, revision: int | None = None) -> VipRecord:
        """Give a VIP that was placed by hand back to the engine."""
        path = f"/v1/vips/{address}/release"
        return await self.call("POST", path, VipRecord, headers=_if_match(revision))

    async def drain(self, vip: IPv4Address, dip: IPv4Address, revision: int | None = None) -> VipRecord:
        """Give a DIP no new flows."""
        path = f"/v1/vips/{vip}/dips/{dip}/drain"
        return await self.call("POST", path, VipRecord, headers=_if_match(revision))

    async def drain_smux(self, name: str, *, draining: bool) -> None:
        """Have other SMuxes preferred to one, or no longer."""
        body = Draining(draining=draining)
        await self.call("PUT", f"/v1/devices/{name}/draining", type(None), body=body)

    async def set_dip_health(
        self,
        vip: IPv4Address,
        up: Mapping[IPv4Address, bool],
        *,
        certain: bool = False,
        check: str = VIP_CHECK,
    ) -> None:
        """Say which DIPs are fit for a VIP's traffic, by one of its checks."""
        body = VipHealth(up=dict(up), certain=certain, check=check)
        await self.call("PUT", f"/v1/vips/{vip}/health", type(None), body=body)

    async def set_one_dip_health(self, vip: IPv4Address, dip: IPv4Address, *, up: bool) -> None:
        """Say whether a DIP is fit for a VIP's traffic."""
        await self.call("PUT", f"/v1/vips/{vip}/dips/{dip}/health", DipHealth, body=DipHealth(up=up))

    async def set_reach(self, reach: ReachMap) -> None:
        """Say which devices answer."""
        await self.call("PUT", "/v1/reach", type(None), body=reach)

    async def devices(self) -> list[DeviceStatus]:
        """Return every device as the updater sees it."""
        return await self.call("GET", "/v1/devices", list[DeviceStatus])

    async def status(self) -> UpdaterStatus:
        """Return the updater at a glance."""
        return await self.call("GET", "/v1/status", UpdaterStatus)

    async def records(self, after: int = 0) -> RecordFeed:
        """Return what changed of the wanted VIPs since a version."""
        return await self.call("GET", "/v1/records", RecordFeed, query={"after": after}, timeout_s=LONG_S)

    async def assignment(self) -> Assignment:
        """Return where every VIP and TIP shall live."""
        return await self.call("GET", "/v1/assignment", Assignment)

    async def assign(
        self, placements: Iterable[Placement], advance: Callable[[LongOperation], None] = lambda _: None
    ) -> Report:
        """Carry an assignment out; `advance` is told how it stands. Raises `RestError` where it fails."""
        body = Assignment(placements=tuple(placements))
        prefer = {"Prefer": "respond-async"}
        stands = await self.call(
            "PUT", "/v1/assignment", LongOperation, body=body, headers=prefer, timeout_s=BULK_TIMEOUT_S
        )
        while stands.phase is Phase.RUNNING:
            advance(stands)
            stands = await self.operation(stands.id, wait_s=_LOOK_S)
        advance(stands)
        if stands.report is None:
            raise RestError(f"the assignment failed: {stands.problem}")
        return stands.report

    async def operation(self, number: int, wait_s: float = 0.0) -> LongOperation:
        """Return how an operation stands once it is over, or after a while."""
        return await self.call("GET", f"/v1/operations/{number}", LongOperation, query={"wait": wait_s})

    async def operations(self) -> list[LongOperation]:
        """List the operations that run, and those that ended lately."""
        return await self.call("GET", "/v1/operations", list[LongOperation])

    async def plan(self, placements: Iterable[Placement]) -> Plan:
        """Return what carrying an assignment out would do."""
        body = Assignment(placements=tuple(placements))
        return await self.call("POST", "/v1/assignment/plan", Plan, body=body, timeout_s=LONG_S)

    async def cluster(self) -> ClusterStatus:
        """Return whether this controller leads, and who does."""
        return await self.call("GET", "/v1/cluster", ClusterStatus)

    async def resync(self) -> Report:
        """Repair what differs from what is wanted."""
        return await self.call("POST", "/v1/resync", Report)

    async def note(self, subject: str, before: Stated, after: Stated) -> None:
        """Have the audit log say what was changed elsewhere."""
        body = Noted(subject=subject, before=before, after=after)
        await self.call("POST", "/v1/audit", type(None), body=body)

    async def audit(self, limit: int = 100) -> list[Event]:
        """List the newest events of who stated what, oldest first."""
        found: list[Event] = []
        after = 0
        while page := await self.events(after, EVENTS_PAGE):
            found = [*found, *(event for event in page if event.kind == KIND)][-limit:]
            after = page[-1].id
        return found

    async def events(self, after: int | None = None, limit: int = 100) -> list[Event]:
        """List events after one, or the newest."""
        query = {"after": after, "limit": limit}
        return await self.call("GET", "/v1/events", list[Event], query=query)


class EngineClient(RestClient):
    """Calls the DUET engine."""

    async def compute(self, request: AssignmentRequest) -> AssignmentResult:
        """Compute an assignment; nothing is carried out."""
        return await self.call("POST", "/v1/assignments", AssignmentResult, body=request, timeout_s=LONG_S)

    async def place(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Say where one VIP and its TIPs go, while everything else stays."""
        return await self.call("POST", "/v1/placements", dict[IPv4Address, str | None], body=record)

    async def explain(self, address: IPv4Address) -> Explanation:
        """Say why the last computed assignment put a VIP or TIP where it did."""
        return await self.call("GET", f"/v1/explanations/{address}", Explanation)


class MonitoringClient(RestClient):
    """Calls datacenter monitoring."""

    async def inventory(self) -> Inventory:
        """Return the network."""
        return await self.call("GET", "/v1/inventory", Inventory)

    async def network(self) -> NetworkState:
        """Return what devices say of the network."""
        return await self.call("GET", "/v1/network", NetworkState)

    async def agents(self) -> list[AgentState]:
        """Return every agent as monitoring sees it."""
        return await self.call("GET", "/v1/agents", list[AgentState])

    async def flow_records(self, wanted: Wanted, limit: int) -> Flows:
        """Return what sampled packets say of flows, the latest first."""
        query = wanted.model_dump() | {"limit": limit}
        return await self.call("GET", "/v1/flow-records", Flows, query=query)

    async def traffic(self, seconds: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the last `seconds`."""
        return await self.call("GET", "/v1/traffic", list[TrafficSample], query={"seconds": seconds})


class ControllerClient(UpdaterClient, EngineClient, MonitoringClient):
    """Calls a controller whose three modules share an address, as the operator's commands do."""


def _if_match(revision: int | None) -> dict[str, str] | None:
    return None if revision is None else {"If-Match": f'"{revision}"'}
