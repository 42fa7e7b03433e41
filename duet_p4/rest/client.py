"""Typed HTTP clients: one connection pool per service, errors that say who refused what, and why."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import ASGIApp

from duet_p4 import telemetry
from duet_p4.api import term
from duet_p4.api.changes import Change, Changed
from duet_p4.api.digest import Digest, Synced
from duet_p4.api.flows import FlowRecord
from duet_p4.api.health import HealthReport
from duet_p4.api.host import HostChanges, HostState, HostStatus, HostVip, LiveFlow, Meter, Source
from duet_p4.api.mux import (
    Changes,
    Draining,
    MuxCounters,
    MuxEntry,
    MuxStatus,
    TipState,
    VipState,
    WantedState,
)
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import MEDIA_TYPE, Problem
from duet_p4.api.service import Health, Whoami
from duet_p4.api.trace import TraceBegun, Traced, TraceRequest
from duet_p4.identity import Credentials, Identity, Role
from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.access import As
from duet_p4.rest.http import HttpError, InProcess, Reply, Transport, Wire, target_of

Answer = TypeVar("Answer")

DEFAULT_TIMEOUT_S = 10.0
BULK_TIMEOUT_S = 120.0
"""For requests that carry everything a device is to hold."""

_HERE = Identity(Role.CONTROLLER, "controller")
_SHOWN = 500


class RestError(Exception):
    """A request that failed; the text names the service and the request."""


class UnreachableError(RestError):
    """The service did not answer: no connection, or none in time."""


class DeposedError(RestError):
    """A write was not sent: its sender leads no longer."""


class UnansweredError(UnreachableError):
    """The service did not answer in time; a request whose `method` is not GET may go on all the same."""

    def __init__(self, request: str, method: str, seconds: float | None) -> None:
        super().__init__(f"{request}: no answer in {seconds} s")
        self.method = method


class RefusedError(RestError):
    """The service answered with a problem; `problem` has its status, kind and detail."""

    def __init__(self, request: str, problem: Problem) -> None:
        super().__init__(f"{request}: {problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


@dataclass
class _Pool:
    """Connections made with the credentials of one generation, and how many requests use them."""

    transport: Transport
    generation: int
    users: int = 0


class RestClient:
    """Calls one service; an asynchronous context manager that keeps its connections open.

    `credentials` are shown to an `https` service, which must have a certificate of an authority that they
    believe, for its address; where they change, later requests go over new connections. `local` is the Unix
    socket that the service is reached through, if not TCP, and `app` the service itself where it runs in
    this process: it is asked by the controller. Proxies of the environment are ignored: agents are on the
    management network. The term, once `lead` was called, goes with every write.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        local: Path | None = None,
        app: ASGIApp | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.url = url
        self.term: int | None = None
        self._leads: Callable[[], bool] = lambda: True
        self._credentials = credentials
        self._local = local
        self._app = app
        self._timeout_s = timeout_s
        self._pool = self._connect()
        self._retired: list[_Pool] = []

    def _connect(self) -> _Pool:
        """Return where connections are made with the credentials of the moment."""
        if self._app is not None:
            return _Pool(InProcess(As(self._app, _HERE)), 0)
        credentials = self._credentials
        if credentials is None:
            tls = ssl.create_default_context() if self.url.startswith("https:") else None
            return _Pool(Wire(self.url, local=self._local, tls=tls), 0)
        return _Pool(Wire(self.url, local=self._local, tls=credentials.client()), credentials.generation)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Transport]:
        """Yield what requests go through; what is used no more, as credentials have changed, is closed."""
        if self._credentials is not None and self._credentials.generation != self._pool.generation:
            self._retired.append(self._pool)
            self._pool = self._connect()
            await self._tidy()
        pool = self._pool
        pool.users += 1
        try:
            yield pool.transport
        finally:
            pool.users -= 1
            if pool is not self._pool:
                await self._tidy()

    async def _tidy(self) -> None:
        over = [pool for pool in self._retired if not pool.users]
        self._retired = [pool for pool in self._retired if pool.users]
        for pool in over:
            await pool.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        for pool in (self._pool, *self._retired):
            await pool.transport.close()

    def lead(self, term: int, leads: Callable[[], bool]) -> None:
        """Write as the leader of a term from now on, but only while it `leads`."""
        self.term = term
        self._leads = leads

    async def call(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        *,
        body: BaseModel | bytes | None = None,
        query: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send a request and return its answer as `answer`, any type that pydantic knows.

        A `body` of bytes is JSON already.
        Raises `UnreachableError`, `RefusedError` or `DeposedError`, and `RestError` where the answer is not
        of that type.
        """
        where = f"{method} {self.url}{path}"
        content = body.model_dump_json().encode() if isinstance(body, BaseModel) else body
        params = {key: _text(value) for key, value in (query or {}).items() if value is not None}
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if content is not None else {})}
        if self.term is not None and method != "GET":
            sent[term.HEADER] = str(self.term)
            if not self._leads():
                raise DeposedError(f"{where}: term {self.term} is over")
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._connected() as transport:
                with _span_of(method, self.url, path) as span:
                    if span is not None:
                        telemetry.inject(sent)
                    reply = await transport.request(method, target_of(path, params), sent, content)
        except TimeoutError as error:
            raise UnansweredError(where, method, timeout_s) from error
        except HttpError as error:
            raise UnreachableError(f"{where}: {error}") from error
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise RefusedError(where, _problem(reply))
        adapter: TypeAdapter[Answer] = _adapter(answer)  # type: ignore[arg-type] # types are hashable
        if reply.status == HTTPStatus.NO_CONTENT:
            return adapter.validate_python(None)
        try:
            return adapter.validate_json(reply.content)
        except ValidationError as error:
            raise RestError(f"{where}: the answer is no {answer}: {error}") from error

    async def health(self) -> Health:
        """Return what `/healthz` says, also where the service is not ready.

        Raises `UnreachableError`, and `RestError` where the answer is none of a service of this project.
        """
        where = f"GET {self.url}/healthz"
        try:
            async with asyncio.timeout(self._timeout_s), self._connected() as transport:
                reply = await transport.request("GET", "/healthz", {}, None)
        except TimeoutError as error:
            raise UnansweredError(where, "GET", self._timeout_s) from error
        except HttpError as error:
            raise UnreachableError(f"{where}: {error}") from error
        try:
            return Health.model_validate_json(reply.content)
        except ValidationError as error:
            said = reply.text[:_SHOWN]
            raise RestError(f"{where}: {reply.status} and no health: {said!r}") from error

    async def whoami(self) -> Whoami:
        """Return who the service is, whom it believes, and as whom it knows this client."""
        return await self.call("GET", "/v1/identity", Whoami)


class DeviceClient(RestClient):
    """Calls any agent that has a data path."""

    async def begin_trace(self, request: TraceRequest) -> TraceBegun:
        """Follow the next packets of a flow; returns once they are followed."""
        return await self.call("POST", "/v1/traces", TraceBegun, body=request, timeout_s=BULK_TIMEOUT_S)

    async def end_trace(self, trace: str) -> Traced:
        """End a trace, and return what it has seen."""
        return await self.call("DELETE", f"/v1/traces/{trace}", Traced)

    async def flow_records(self) -> list[FlowRecord]:
        """Return what sampled packets say of the flows of the last seconds, the latest first."""
        return await self.call("GET", "/v1/flow-records", list[FlowRecord])


class MuxClient(DeviceClient):
    """Calls a switch agent or an SMux agent."""

    async def put_vip(self, vip: MuxVip, *, announce: bool = True) -> Change:
        """Have the mux hold `vip` exactly as given, and announce it."""
        return await self._put("vips", vip, announce)

    async def get_vip(self, address: IPv4Address) -> VipState:
        """Return one VIP the mux holds."""
        return await self.call("GET", f"/v1/vips/{address}", VipState)

    async def get_vips(self) -> list[VipState]:
        """Return every VIP the mux holds, ordered by address."""
        return await self.call("GET", "/v1/vips", list[VipState])

    async def delete_vip(self, address: IPv4Address) -> Change:
        """Withdraw a VIP and remove it."""
        return await self.call("DELETE", f"/v1/vips/{address}", Change)

    async def announce_vip(self, address: IPv4Address) -> Change:
        """Announce a VIP that the mux holds."""
        return await self.call("POST", f"/v1/vips/{address}/announce", Change)

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        """Withdraw a VIP, which the mux keeps."""
        return await self.call("POST", f"/v1/vips/{address}/withdraw", Change)

    async def put_tip(self, tip: MuxTip, *, announce: bool = True) -> Change:
        """Have the mux hold `tip` exactly as given, and announce it."""
        return await self._put("tips", tip, announce)

    async def get_tip(self, address: IPv4Address) -> TipState:
        """Return one TIP the mux holds."""
        return await self.call("GET", f"/v1/tips/{address}", TipState)

    async def get_tips(self) -> list[TipState]:
        """Return every TIP the mux holds, ordered by address."""
        return await self.call("GET", "/v1/tips", list[TipState])

    async def delete_tip(self, address: IPv4Address) -> Change:
        """Withdraw a TIP and remove it."""
        return await self.call("DELETE", f"/v1/tips/{address}", Change)

    async def announce_tip(self, address: IPv4Address) -> Change:
        """Announce a TIP that the mux holds."""
        return await self.call("POST", f"/v1/tips/{address}/announce", Change)

    async def digest(self) -> Digest:
        """Return what the mux holds, in short."""
        return await self.call("GET", "/v1/digest", Digest)

    async def change(self, changes: Changes) -> Changed:
        """Have the mux carry out many changes; its answer says of each what came of it."""
        return await self.call("POST", "/v1/changes", Changed, body=changes, timeout_s=BULK_TIMEOUT_S)

    async def become(self, wanted: WantedState) -> Changed:
        """Have the mux hold just what is wanted."""
        return await self.call("PUT", "/v1/state", Changed, body=wanted, timeout_s=BULK_TIMEOUT_S)

    async def confirm(self, digest: str) -> None:
        """Tell the mux that it holds what it should, where that has this digest."""
        await self.call("POST", "/v1/synced", type(None), body=Synced(digest=digest))

    async def host_ports(self) -> list[HostPort]:
        """Return a switch's ports to hosts."""
        return await self.call("GET", "/v1/ports", list[HostPort])

    async def draining(self) -> bool:
        """Return whether neighbours are asked to prefer other SMuxes."""
        return (await self.call("GET", "/v1/draining", Draining)).draining

    async def drain(self, *, draining: bool) -> None:
        """Have an SMux ask its neighbours to prefer any other, or no longer."""
        await self.call("PUT", "/v1/draining", type(None), body=Draining(draining=draining))

    async def status(self) -> MuxStatus:
        """Return the mux at a glance."""
        return await self.call("GET", "/v1/status", MuxStatus)

    async def counters(self) -> MuxCounters:
        """Read the counters of the mux's data path."""
        return await self.call("GET", "/v1/counters", MuxCounters)

    async def _put(self, kind: str, entry: MuxEntry, announce: bool) -> Change:
        query = {"announce": announce}
        return await self.call("PUT", f"/v1/{kind}/{entry.address}", Change, body=entry, query=query)


class HostClient(DeviceClient):
    """Calls a host agent."""

    async def put_vip(self, vip: HostVip) -> Change:
        """Have the server's DIPs serve a VIP exactly as given."""
        return await self.call("PUT", f"/v1/vips/{vip.address}", Change, body=vip)

    async def get_vip(self, address: IPv4Address) -> HostVip:
        """Return one VIP that the server's DIPs serve."""
        return await self.call("GET", f"/v1/vips/{address}", HostVip)

    async def get_vips(self) -> list[HostVip]:
        """Return every VIP that the server's DIPs serve, ordered by address."""
        return await self.call("GET", "/v1/vips", list[HostVip])

    async def delete_vip(self, address: IPv4Address) -> Change:
        """Have the server's DIPs serve a VIP no longer."""
        return await self.call("DELETE", f"/v1/vips/{address}", Change)

    async def live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        """Return the live flows that the server's DIPs have through a VIP."""
        return await self.call("GET", f"/v1/vips/{address}/flows", list[LiveFlow])

    async def digest(self) -> Digest:
        """Return what the server holds, in short."""
        return await self.call("GET", "/v1/digest", Digest)

    async def change(self, changes: HostChanges) -> Changed:
        """Have the server carry out many changes; its answer says of each what came of it."""
        return await self.call("POST", "/v1/changes", Changed, body=changes, timeout_s=BULK_TIMEOUT_S)

    async def become(self, wanted: HostState) -> Changed:
        """Have the server serve just what is wanted."""
        return await self.call("PUT", "/v1/state", Changed, body=wanted, timeout_s=BULK_TIMEOUT_S)

    async def confirm(self, digest: str) -> None:
        """Tell the server that it holds what it should, where that has this digest."""
        await self.call("POST", "/v1/synced", type(None), body=Synced(digest=digest))

    async def sources(self) -> list[Source]:
        """Return what the server's DIPs received, by VIP, DIP and /24 of clients."""
        return await self.call("GET", "/v1/sources", list[Source])

    async def meters(self) -> list[Meter]:
        """Return packets and bytes per VIP and DIP, both ways."""
        return await self.call("GET", "/v1/meters", list[Meter])

    async def dip_health(self) -> HealthReport:
        """Return the verdict of every check of the server."""
        return await self.call("GET", "/v1/health", HealthReport)

    async def status(self) -> HostStatus:
        """Return the agent at a glance."""
        return await self.call("GET", "/v1/status", HostStatus)


def _span_of(method: str, url: str, path: str) -> contextlib.AbstractContextManager[object | None]:
    """Record a write that is part of a trace."""
    if method == "GET":
        return contextlib.nullcontext()
    return telemetry.span(f"{method} {path}", telemetry.Kind.CLIENT, server__address=url)


@cache
def _adapter(answer: Any) -> TypeAdapter[Any]:
    """Return what reads answers of a type; to make one takes milliseconds."""
    return TypeAdapter(answer)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problem(reply: Reply) -> Problem:
    if reply.content_type.startswith(MEDIA_TYPE):
        with contextlib.suppress(ValidationError):
            return Problem.model_validate_json(reply.content)
    title = reply.reason or HTTPStatus(reply.status).phrase
    return Problem(title=title, status=reply.status, detail=reply.text[:_SHOWN])
