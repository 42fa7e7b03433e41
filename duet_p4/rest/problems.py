"""Problem details (RFC 9457): the one shape of every error a REST service returns."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:duet-p4:problem:"
_MAX_SHOWN = 200

logger = logging.getLogger(__name__)


class InvalidValue(BaseModel):
    """One value of a request that was refused: where it stood, what it was, why it will not do."""

    where: str
    value: str
    reason: str


class Problem(BaseModel):
    """An RFC 9457 problem; `errors` lists each offending value of a request that failed validation."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[InvalidValue] = []


class ProblemError(Exception):
    """Raised by a service to answer with a problem.

    `kind` is a short name that programs can tell problems apart by, such as `table-full`.
    """

    def __init__(self, status: int, detail: str, kind: str | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(
            type=f"{_TYPE_PREFIX}{kind}" if kind else "about:blank",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
        )


class UnknownError(ProblemError):
    """What the path names does not exist (404)."""

    def __init__(self, detail: str) -> None:
        super().__init__(404, detail, "not-found")


class InvalidError(ProblemError):
    """The request contradicts itself or what is there (422)."""

    def __init__(self, detail: str) -> None:
        super().__init__(422, detail, "invalid")


class ConflictError(ProblemError):
    """The request cannot be met as things stand (409)."""

    def __init__(self, detail: str, kind: str = "conflict") -> None:
        super().__init__(409, detail, kind)


class UnavailableError(ProblemError):
    """The service cannot do this now, but may later (503)."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, detail, "unavailable")


def response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTTP response that carries `problem`."""
    # ASCII only: an offending value may hold characters that UTF-8 cannot encode.
    body = json.dumps(problem.model_dump(exclude_defaults=False), ensure_ascii=True)
    return Response(body, problem.status, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(_: Request, error: ProblemError) -> Response:
        return response(error.problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return response(_validation_problem(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        title = HTTPStatus(error.status_code).phrase
        return response(Problem(title=title, status=error.status_code, detail=detail), error.headers)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed: %r", request.method, request.url.path, error)
        detail = f"{type(error).__name__}: {error}"
        return response(Problem(title="Internal Server Error", status=500, detail=detail))


def _validation_problem(errors: Sequence[Any]) -> Problem:
    shown = [
        InvalidValue(
            where=".".join(str(part) for part in error["loc"]),
            value=_show(error.get("input")),
            reason=str(error["msg"]).removeprefix("Value error, "),
        )
        for error in errors
    ]
    first = shown[0]
    detail = f"{first.where}: {first.reason} (got {first.value})"
    if len(shown) > 1:
        detail += f", and {len(shown) - 1} more"
    return Problem(
        type=f"{_TYPE_PREFIX}invalid", title="Unprocessable Content", status=422, detail=detail, errors=shown
    )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
