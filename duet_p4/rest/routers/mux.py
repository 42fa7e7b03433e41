"""The paths that switch agents and SMux agents share, answered by a `MuxService`."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated

from fastapi import APIRouter, Query

from duet_p4.api.changes import Change, Changed
from duet_p4.api.digest import Digest, Synced
from duet_p4.api.mux import Changes, MuxCounters, MuxService, MuxStatus, TipState, VipState, WantedState
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import InvalidError, UnknownError
from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.app import problem_responses

Announce = Annotated[bool, Query(description="announce over BGP once the tables are written")]


def router(service: MuxService) -> APIRouter:
    """Return the paths of a mux, answered by `service`."""
    api = APIRouter(prefix="/v1")

    @api.get("/vips", tags=["vips"])
    async def get_vips() -> list[VipState]:
        """List every VIP the mux holds."""
        return service.vips()

    @api.get("/vips/{vip}", tags=["vips"], responses=problem_responses(404))
    async def get_vip(vip: IPv4Address) -> VipState:
        """Return one VIP."""
        state = service.state(vip)
        if not isinstance(state, VipState):
            raise UnknownError(f"VIP {vip} is not on this mux")
        return state

    @api.put("/vips/{vip}", tags=["vips"], responses=problem_responses(409, 412))
    async def put_vip(vip: IPv4Address, body: MuxVip, announce: Announce = True) -> Change:
        """Hold a VIP exactly as given, all or nothing: tables first, then the announcement."""
        _check_address("VIP", vip, body.address)
        return await service.put(body, announce=announce)

    @api.get("/tips", tags=["tips"])
    async def get_tips() -> list[TipState]:
        """List every TIP the mux holds."""
        return service.tips()

    @api.get("/tips/{tip}", tags=["tips"], responses=problem_responses(404))
    async def get_tip(tip: IPv4Address) -> TipState:
        """Return one TIP."""
        state = service.state(tip)
        if not isinstance(state, TipState):
            raise UnknownError(f"TIP {tip} is not on this mux")
        return state

    @api.put("/tips/{tip}", tags=["tips"], responses=problem_responses(409, 412))
    async def put_tip(tip: IPv4Address, body: MuxTip, announce: Announce = True) -> Change:
        """Hold a TIP exactly as given: tables first, then the announcement."""
        _check_address("TIP", tip, body.address)
        return await service.put(body, announce=announce)

    _add_changes(api, service, "vip", VipState)
    _add_changes(api, service, "tip", TipState)

    @api.get("/digest", tags=["state"])
    async def get_digest() -> Digest:
        """Return what the mux holds, in short."""
        return service.digest()

    @api.post("/changes", tags=["state"], responses=problem_responses(412))
    async def post_changes(body: Changes) -> Changed:
        """Change many VIPs and TIPs; say of each what came of it."""
        return await service.change(body)

    @api.put("/state", tags=["state"], responses=problem_responses(412))
    async def put_state(body: WantedState) -> Changed:
        """Hold just what is given; what is right already is not written."""
        return await service.become(body)

    @api.post("/synced", tags=["state"], status_code=204, responses=problem_responses(409, 412))
    async def post_synced(body: Synced) -> None:
        """Confirm what the mux holds by its digest: then it may announce it."""
        await service.confirm(body.digest)

    @api.get("/ports", tags=["status"])
    async def get_ports() -> list[HostPort]:
        """List the ports with hosts behind them, and whether those can be reached."""
        return service.host_ports()

    @api.get("/status", tags=["status"])
    async def get_status() -> MuxStatus:
        """Return the mux at a glance."""
        return await service.status()

    @api.get("/counters", tags=["status"])
    async def get_counters() -> MuxCounters:
        """Read the counters of the data path."""
        return await service.counters()

    return api


def _add_changes(
    api: APIRouter, service: MuxService, kind: str, state: type[VipState] | type[TipState]
) -> None:
    """Add what is the same for a VIP and a TIP."""
    what, path = kind.upper(), f"/{kind}s/{{address}}"
    changed = problem_responses(404, 409, 412)

    def check(address: IPv4Address) -> None:
        if not isinstance(service.state(address), state):
            raise UnknownError(f"{what} {address} is not on this mux")

    @api.delete(path, tags=[f"{kind}s"], responses=changed, name=f"delete_{kind}")
    async def delete(address: IPv4Address) -> Change:
        """Withdraw an address, then remove it from the tables."""
        check(address)
        return await service.delete(address)

    @api.post(f"{path}/announce", tags=[f"{kind}s"], responses=changed, name=f"announce_{kind}")
    async def announce(address: IPv4Address) -> Change:
        """Announce an address that the mux holds."""
        check(address)
        return await service.announce(address)

    @api.post(f"{path}/withdraw", tags=[f"{kind}s"], responses=changed, name=f"withdraw_{kind}")
    async def withdraw(address: IPv4Address) -> Change:
        """Withdraw an address, and keep it in the tables."""
        check(address)
        return await service.withdraw(address)


def _check_address(what: str, path: IPv4Address, body: IPv4Address) -> None:
    if path != body:
        raise InvalidError(f"the path names {what} {path}, the body {body}")
