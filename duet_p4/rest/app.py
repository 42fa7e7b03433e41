"""The FastAPI application that every REST service of the project starts from."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from duet_p4 import telemetry
from duet_p4.api import term
from duet_p4.api.problems import MEDIA_TYPE, OldTermError, Problem
from duet_p4.api.service import Health, State, Whoami
from duet_p4.identity import Credentials, Identity, Role
from duet_p4.rest import problems
from duet_p4.rest.access import PEER, READ_METHODS, Access, Guard, peer_of
from duet_p4.rest.bounds import Bodies, BodyBound
from duet_p4.term import Terms


def create_app(
    title: str,
    *,
    access: Access | None,
    credentials: Credentials | None = None,
    bodies: Bodies | None = None,
    health: Callable[[], Health] | None = None,
    terms: Terms | None = None,
    description: str = "",
) -> FastAPI:
    """Return an application with no paths of its own but `/healthz`, `/v1/identity` and `/openapi.json`.

    Every error is a problem (RFC 9457). `access` says who may do what: who shows no certificate is refused
    with 401, and who may not with 403. None lets everybody do everything (`insecure`). `bodies` bounds what
    requests may carry (413, 408). `health` says how the service is; without it, it is ready once it answers.
    `/healthz` is 200 for a ready service and 503 otherwise. With `terms`, writes of a controller that leads
    no more are refused with 412. `credentials` are those that it is served with.
    """
    app = FastAPI(
        title=title,
        version=version("duet-p4"),
        description=description,
        redoc_url=None,
        # Spans are our own: FastAPI would look for its own in the environment, at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    problems.install(app)
    app.add_middleware(_Spans)
    if terms is not None:
        app.add_middleware(_TermGuard, terms=terms)
    app.add_middleware(BodyBound, bodies=bodies or Bodies())
    if access is not None:
        app.add_middleware(Guard, access=access)

    @app.get("/healthz", tags=["health"], responses={503: {"model": Health}})
    async def healthz(response: Response) -> Health:
        """Say whether the service does its work."""
        now = health() if health else Health(state=State.READY)
        response.status_code = 200 if now.state is State.READY else 503
        return now.model_copy(update={"processes": {"agent": os.getpid(), **now.processes}})

    @app.get("/v1/identity", tags=["health"])
    async def whoami(request: Request) -> Whoami:
        """Say who the service is, whom it believes, and who asks."""
        peer = peer_of(request)
        own = credentials
        return Whoami(
            peer=str(peer) if peer else None,
            generation=own.generation if own else 0,
            service=str(own.identity) if own else None,
            serial=own.serial if own else None,
            expires=own.expires if own else None,
            trusted=own.trusted if own else (),
        )

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _openapi(app, secured=access is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Spans:
    """Records writes that are part of somebody's trace, and has those of operators begin one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READ_METHODS or not telemetry.recorded():
            await self._app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(telemetry.HEADER.encode())
        peer: Identity | None = scope.get("state", {}).get(PEER)
        name = f"{scope['method']} {scope['path']}"
        operated = peer is None or peer.role is Role.OPERATOR
        context = telemetry.context_of(header.decode("latin-1") if header else None)
        with (
            telemetry.entered(context),
            telemetry.span(name, telemetry.Kind.SERVER, root=operated) as span,
        ):
            if span is not None:
                telemetry.put(span, http__request__method=scope["method"], url__path=scope["path"])
                telemetry.put(span, enduser__id=str(peer) if peer else "")

            async def note(message: Message) -> None:
                if span is not None and message["type"] == "http.response.start":
                    telemetry.put(span, http__response__status_code=message["status"])
                    if message["status"] >= _FAILED:
                        telemetry.failed(span, f"HTTP {message['status']}")
                await send(message)

            await self._app(scope, receive, note)


_FAILED = 500
_TERMLESS = ("/v1/traces", "/v1/draining")
"""Writes below these change nothing of what a controller states: an operator makes them, whoever leads."""


class _TermGuard:
    """Refuses writes of an old term before anything of them is read."""

    def __init__(self, app: ASGIApp, terms: Terms) -> None:
        self._app = app
        self._terms = terms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        holds = scope["type"] == "http" and not scope["path"].startswith(_TERMLESS)
        if holds and scope["method"] not in READ_METHODS:
            given = dict(scope["headers"]).get(term.HEADER.lower().encode())
            problem = None
            try:
                self._terms.admit(given.decode("latin-1") if given is not None else None)
            except OldTermError as error:
                problem = error.problem
            except ValueError as error:
                problem = Problem(title="Bad Request", status=400, detail=f"{term.HEADER}: {error}")
            except OSError as error:
                detail = f"the term cannot be kept: {error}"
                problem = Problem(title="Service Unavailable", status=503, detail=detail)
            if problem is not None:
                await problems.response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _openapi(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    """Return the OpenAPI document, with problems as the shape of errors."""
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    error = {
        "description": "Problem",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if secured:
        components["securitySchemes"] = {"certificate": {"type": "mutualTLS"}}
        schema["security"] = [{"certificate": []}]
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = error
            if operation.get("requestBody"):
                responses.setdefault("400", error)
            if secured:
                responses.setdefault("403", error)
    return schema


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a path operation that may answer with problems of these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "Problem", "content": content} for status in statuses}
