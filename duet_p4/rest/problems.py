"""How every error of a REST service becomes a problem (RFC 9457, `duet_p4.api.problems`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from duet_p4.api.problems import MEDIA_TYPE, TYPE_PREFIX, InvalidValue, Problem, ProblemError

_MAX_SHOWN = 200

logger = logging.getLogger(__name__)


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
        type=f"{TYPE_PREFIX}invalid", title="Unprocessable Content", status=422, detail=detail, errors=shown
    )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
