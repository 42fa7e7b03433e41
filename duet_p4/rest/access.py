"""Who may ask a service for what: data, and the guard that stands before everything else."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from duet_p4.api.problems import ForbiddenError, Problem
from duet_p4.identity import Identity, Role
from duet_p4.rest import problems

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

PEER = "peer"
"""Where a request's state has who asks: an `Identity`, or None where nobody has shown a certificate."""

ACTOR: ContextVar[Identity | None] = ContextVar("actor", default=None)
"""Who has asked for what is being done; None: nobody has, or anybody (`insecure`)."""

_READERS = frozenset({Role.CONTROLLER, Role.OPERATOR, Role.READER})
_WRITERS = frozenset({Role.CONTROLLER, Role.OPERATOR})
_OPEN = frozenset({"/healthz", "/v1/identity"})


@dataclass(frozen=True)
class Access:
    """What roles may do: read, write (all that is no GET, HEAD or OPTIONS), and more on single paths.

    Whoever has a certificate may ask how the service is (`/healthz`) and who it is (`/v1/identity`).
    """

    readers: frozenset[Role] = _READERS
    writers: frozenset[Role] = _WRITERS
    writes: Mapping[str, frozenset[Role]] = field(default_factory=dict)

    def allows(self, role: Role, method: str, path: str) -> bool:
        """Return whether a role may do this."""
        if method not in READ_METHODS:
            return role in self.writes.get(path, self.writers)
        return role in self.readers or path in _OPEN


AGENT = Access()
"""An agent's: the controller writes (its term is another guard's), and so does an operator."""


class Guard:
    """Refuses what a peer may not do before anything of the request is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            peer: Identity | None = scope.get("state", {}).get(PEER)
            method, path = scope["method"], scope["path"]
            problem = None
            if peer is None:
                detail = f"{method} {path} needs a certificate: none was shown"
                problem = Problem(title="Unauthorized", status=401, detail=detail)
            elif not self._access.allows(peer.role, method, path):
                problem = ForbiddenError(f"{peer} may not {method} {path}").problem
            if problem is not None:
                await problems.response(problem, {"Connection": "close"})(scope, receive, send)
                return
            # What a service asks of itself meanwhile has another actor, and comes back to this one.
            acting = ACTOR.set(peer)
            try:
                await self._app(scope, receive, send)
            finally:
                ACTOR.reset(acting)
            return
        await self._app(scope, receive, send)


class As:
    """An application that is asked inside its own process, by somebody who need not prove who that is."""

    def __init__(self, app: ASGIApp, peer: Identity) -> None:
        self._app = app
        self._peer = peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with who asks."""
        await self._app({**scope, "state": {**scope.get("state", {}), PEER: self._peer}}, receive, send)


def peer_of(request: Request) -> Identity | None:
    """Return who asks; None where the service lets everybody in (`insecure`)."""
    peer: Identity | None = getattr(request.state, PEER, None)
    return peer


def require_own(request: Request, named: str) -> None:
    """Raise ForbiddenError where a report is in somebody else's name than its sender's."""
    peer = peer_of(request)
    if peer is not None and peer.name != named:
        raise ForbiddenError(f"{peer} reports in the name of {named!r}")
