"""Problem details (RFC 9457): the one shape of every error a REST service returns."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:duet-p4:problem:"


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

    @property
    def kind(self) -> str:
        """The short name that programs tell problems apart by, such as `table-full`; may be empty."""
        return self.type.removeprefix(TYPE_PREFIX) if self.type.startswith(TYPE_PREFIX) else ""


class ProblemError(Exception):
    """Raised by a service to answer with a problem.

    `kind` is a short name that programs can tell problems apart by, such as `table-full`.
    """

    def __init__(self, status: int, detail: str, kind: str | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(
            type=f"{TYPE_PREFIX}{kind}" if kind else "about:blank",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
        )


class ForbiddenError(ProblemError):
    """Who asks is known, and may not (403)."""

    def __init__(self, detail: str) -> None:
        super().__init__(403, detail, "forbidden")


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


class OldTermError(ProblemError):
    """The request comes from a controller that leads no more (412)."""

    def __init__(self, detail: str) -> None:
        super().__init__(412, detail, "old-term")


class UnavailableError(ProblemError):
    """The service cannot do this now, but may later (503)."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, detail, "unavailable")


_BY_STATUS: dict[int, type[ProblemError]] = {
    403: ForbiddenError,
    404: UnknownError,
    409: ConflictError,
    412: OldTermError,
    422: InvalidError,
    503: UnavailableError,
}


def error_of(problem: Problem) -> ProblemError:
    """Return the exception that answers with a problem that is there already."""
    kind = _BY_STATUS.get(problem.status, ProblemError)
    error = kind.__new__(kind)
    Exception.__init__(error, problem.detail)
    error.problem = problem
    return error
