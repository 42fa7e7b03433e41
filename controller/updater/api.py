"""The updater's REST interface: changes of VIPs, their placement, plans. What is read of the state: `reads`.

A VIP has a revision, which counts what operators said of it. It is the VIP's ETag; a request with another
one under If-Match is refused with 412, and changes nothing.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from controller.audit import Audit, Noted
from controller.events import EventLog
from controller.reach import ReachMap
from controller.records import ON_SMUXES, RecordFeed, VipRecord
from controller.updater.apply import Applied, Applier, Apply
from controller.updater.listing import Listing, listing
from controller.updater.operations import LongOperation, Operations
from controller.updater.outcome import Report
from controller.updater.plan import Plan
from controller.updater.reads import Assignment, with_tag
from controller.updater.service import Updater
from controller.updater.status import DeviceStatus, UpdaterStatus, Why, device_status, updater_status, why
from duet_p4.api.host import LiveFlow
from duet_p4.api.mux import Draining
from duet_p4.api.problems import InvalidError
from duet_p4.model import VIP_CHECK, Checked, Model, Vip
from duet_p4.rest.app import problem_responses


class Target(Model):
    """Where a VIP shall go; null leaves it to the SMuxes."""

    switch: str | None


class DipHealth(Model):
    """Whether a DIP is fit for traffic; `check` is as in `VipHealth`."""

    up: bool
    check: str = VIP_CHECK


class VipHealth(Model):
    """Which DIPs of a VIP are fit for traffic.

    `check` is that of a port's group, by its name (`tcp/80`), or the VIP's own. What is `certain` is no
    check's verdict, and not doubted.
    """

    up: dict[IPv4Address, bool]
    certain: bool = False
    check: str = VIP_CHECK


class Connections(Model):
    """The live flows of a VIP; `silent` servers did not answer."""

    flows: tuple[LiveFlow, ...]
    silent: tuple[str, ...] = ()


Revision = Annotated[
    str | None,
    Header(
        alias="If-Match", description="do so only if the VIP has this ETag", pattern=r'^(\*|"?\d{1,18}"?)$'
    ),
]


Prefer = Annotated[str | None, Header(description="`respond-async`: answer at once", max_length=200)]
_ASYNC = "respond-async"


def router(updater: Updater, events: EventLog, operations: Operations) -> APIRouter:
    """Return the updater's paths."""
    api = APIRouter(prefix="/v1")
    applier = Applier(updater, events)
    audit = Audit(events)
    found = problem_responses(404, 422)
    changed = problem_responses(404, 409, 412, 422)

    @api.post("/vips/apply", tags=["vips"], responses=problem_responses(422))
    async def apply_vips(body: Apply) -> list[Applied]:
        """State many VIPs, and remove others; say of each what was done, or what was in its way."""
        return await applier.apply(body)

    @api.get("/vips/{vip}/why", tags=["vips"], responses=found)
    async def get_why(vip: IPv4Address) -> Why:
        """Say why a VIP is where it is, what it waits for, and what was tried last."""
        return why(updater, vip)

    @api.get("/vips/{vip}/flows", tags=["vips"], responses=found)
    async def get_flows(
        vip: IPv4Address,
        dip: Annotated[IPv4Address | None, Query(description="only those of this DIP")] = None,
    ) -> Connections:
        """Ask the servers of a VIP's DIPs for the flows that live through it."""
        flows = await updater.connections(vip, dip)
        return Connections(flows=flows.flows, silent=flows.silent)

    @api.post("/vips", tags=["vips"], status_code=201, responses=problem_responses(404, 409, 422))
    async def add_vip(
        body: Vip,
        response: Response,
        switch: Annotated[
            str | None, Query(description="carry it here (`smux`: on the SMuxes), and let no engine move it")
        ] = None,
    ) -> VipRecord:
        """Add a VIP; the engine says where it goes unless `switch` does."""
        target = None if switch == ON_SMUXES else switch
        return with_tag(response, await updater.add_vip(body, target, by_hand=switch is not None))

    @api.put("/vips/{vip}", tags=["vips"], responses=changed)
    async def change_vip(
        vip: IPv4Address, body: Vip, response: Response, if_match: Revision = None
    ) -> VipRecord:
        """Replace a VIP's DIPs, weights or options; live flows of DIPs that stay are kept."""
        if vip != body.address:
            raise InvalidError(f"the path names VIP {vip}, the body {body.address}")
        return with_tag(response, await updater.change_vip(body, _revision(if_match)))

    @api.delete("/vips/{vip}", tags=["vips"], status_code=204, responses=changed)
    async def remove_vip(vip: IPv4Address, if_match: Revision = None) -> None:
        """Remove a VIP."""
        await updater.remove_vip(vip, _revision(if_match))

    @api.post("/vips/{vip}/migrate", tags=["assignment"], responses=changed)
    async def migrate_vip(vip: IPv4Address, body: Target, if_match: Revision = None) -> Report:
        """Move a VIP by hand, through the SMuxes; the engine leaves it there."""
        return await updater.migrate(vip, body.switch, _revision(if_match))

    @api.post("/vips/{vip}/release", tags=["assignment"], responses=changed)
    async def release_vip(vip: IPv4Address, response: Response, if_match: Revision = None) -> VipRecord:
        """Give a VIP that was placed by hand back to the engine."""
        return with_tag(response, await updater.release(vip, _revision(if_match)))

    @api.post("/vips/{vip}/dips/{dip}/drain", tags=["vips"], responses=changed)
    async def drain_dip(
        vip: IPv4Address, dip: IPv4Address, response: Response, if_match: Revision = None
    ) -> VipRecord:
        """Give a DIP no new flows; those it has go on."""
        return with_tag(response, await updater.drain_dip(vip, dip, _revision(if_match)))

    @api.put("/vips/{vip}/health", tags=["vips"], status_code=204, responses=found)
    async def set_health(vip: IPv4Address, body: VipHealth) -> None:
        """Say which DIPs are fit for a VIP's traffic; monitoring does so."""
        down = updater.state.down(vip)
        told = {Checked(dip, body.check): up for dip, up in body.up.items()}
        before = {str(one): one not in down for one in told}
        await updater.set_dip_health(vip, body.up, certain=body.certain, check=body.check)
        audit.by_hand(str(vip), updater.state.version, before, {str(one): up for one, up in told.items()})

    @api.put("/vips/{vip}/dips/{dip}/health", tags=["vips"], responses=found)
    async def set_dip_health(vip: IPv4Address, dip: IPv4Address, body: DipHealth) -> DipHealth:
        """Say whether a DIP is fit for a VIP's traffic."""
        checked = Checked(dip, body.check)
        before = checked not in updater.state.down(vip)
        await updater.set_dip_health(vip, {dip: body.up}, check=body.check)
        audit.note(f"{vip} {checked}", updater.state.version, {"up": before}, {"up": body.up})
        return body

    @api.put("/reach", tags=["devices"], status_code=204, responses=found)
    async def set_reach(body: ReachMap) -> None:
        """Say which devices answer, and which are lost; monitoring does so, again and again."""
        before = dict(updater.reconciler.reach)
        await updater.set_reach(body)
        audit.by_hand("reach", updater.state.version, before, body.devices)

    @api.get("/devices", tags=["devices"])
    async def get_devices() -> list[DeviceStatus]:
        """List every device as the updater sees it: what it holds, and what waits for it."""
        return [device_status(updater, name) for name in sorted(updater.reconciler.lanes)]

    @api.get("/status", tags=["devices"])
    async def get_status() -> UpdaterStatus:
        """Return the updater at a glance: what is left to do, and who is in trouble."""
        return updater_status(updater)

    @api.get("/listing", tags=["vips"], responses=problem_responses(422))
    async def get_listing(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> Listing:
        """List all VIPs, a line each, or those that changed since the version of an earlier listing."""
        return listing(updater.state, after)

    @api.get("/records", tags=["assignment"], responses=problem_responses(422))
    async def get_records(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> RecordFeed:
        """Return what changed of the wanted VIPs since a version; the engine keeps up by it."""
        return updater.state.feed(after)

    @api.put("/assignment", tags=["assignment"], responses={202: {"model": LongOperation}, **found})
    async def put_assignment(
        body: Assignment, response: Response, prefer: Prefer = None
    ) -> Report | LongOperation:
        """Carry an assignment out, in waves; VIPs that were placed by hand stay where they are.

        With `Prefer: respond-async` (RFC 7240) the answer comes at once: an operation, under Location.
        """
        if prefer is None or _ASYNC not in prefer:
            return await updater.assign(body.placements)
        begun = operations.begin("assignment", partial(updater.assign, body.placements))
        response.status_code = 202
        response.headers["Location"] = f"/v1/operations/{begun.id}"
        return begun

    @api.get("/operations", tags=["assignment"])
    async def get_operations() -> list[LongOperation]:
        """List the operations that run, and those that ended lately."""
        return operations.list()

    @api.get("/operations/{number}", tags=["assignment"], responses=found)
    async def get_operation(
        number: Annotated[int, Path(ge=0, le=2**53)],
        wait: Annotated[float, Query(ge=0, le=30, description="wait so many seconds for its end")] = 0.0,
    ) -> LongOperation:
        """Return how an operation stands: what is to be done, how much is done, and what came of it."""
        return await operations.wait(number, wait)

    @api.post("/assignment/plan", tags=["assignment"], responses=found)
    async def plan_assignment(body: Assignment) -> Plan:
        """Return what carrying an assignment out would do, without doing it."""
        return updater.plan(body.placements)

    @api.put(
        "/devices/{name}/draining", tags=["devices"], status_code=204, responses=problem_responses(404, 503)
    )
    async def set_draining(name: str, body: Draining) -> None:
        """Have other SMuxes preferred to one, for maintenance, or no longer; it serves on meanwhile."""
        await updater.drain_smux(name, draining=body.draining)

    @api.post("/audit", tags=["events"], status_code=204, responses=problem_responses(422))
    async def note(body: Noted) -> None:
        """Have the audit log say what the caller has changed elsewhere, as by making a node fail."""
        audit.note(body.subject, updater.state.version, body.before, body.after)

    @api.post("/resync", tags=["assignment"])
    async def resync() -> Report:
        """Ask every device whether it holds what it should, and repair what differs."""
        return await updater.resync()

    return api


def _revision(if_match: str | None) -> int | None:
    return None if if_match in (None, "*") else int(str(if_match).strip('"'))
