"""Errors with a canonical code, and how P4Runtime reports them for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from finsy.proto import p4r, rpc_code, rpc_status
from google.protobuf.any_pb2 import Any as AnyMessage

ERROR_SPACE = "duet-xdp-switch"
DETAILS_KEY = "grpc-status-details-bin"

GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
"""google.rpc code -> gRPC status code; the numbers are the same."""


class P4RuntimeError(Exception):
    """A request, or one update of a batch, that was refused: nothing has changed."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def grpc_code(self) -> grpc.StatusCode:
        """The same code as gRPC names it."""
        return GRPC_CODES[self.code]


def invalid_argument(message: str) -> P4RuntimeError:
    """The request makes no sense for this P4 program."""
    return P4RuntimeError(rpc_code.INVALID_ARGUMENT, message)


def out_of_range(message: str) -> P4RuntimeError:
    """A value does not fit its width, or an index its array."""
    return P4RuntimeError(rpc_code.OUT_OF_RANGE, message)


def not_found(message: str) -> P4RuntimeError:
    """What the request names does not exist."""
    return P4RuntimeError(rpc_code.NOT_FOUND, message)


def already_exists(message: str) -> P4RuntimeError:
    """What the request inserts is there already."""
    return P4RuntimeError(rpc_code.ALREADY_EXISTS, message)


def permission_denied(message: str) -> P4RuntimeError:
    """The client, or the P4 program, does not allow it."""
    return P4RuntimeError(rpc_code.PERMISSION_DENIED, message)


def resource_exhausted(message: str) -> P4RuntimeError:
    """A table, group or profile is full."""
    return P4RuntimeError(rpc_code.RESOURCE_EXHAUSTED, message)


def failed_precondition(message: str) -> P4RuntimeError:
    """The switch is not in a state for this, or the entity is still referred to."""
    return P4RuntimeError(rpc_code.FAILED_PRECONDITION, message)


def unimplemented(message: str) -> P4RuntimeError:
    """P4Runtime has it, this switch does not; the message says what."""
    return P4RuntimeError(rpc_code.UNIMPLEMENTED, message)


def internal(message: str) -> P4RuntimeError:
    """The data plane broke its promise."""
    return P4RuntimeError(rpc_code.INTERNAL, message)


def batch_status(results: Sequence[P4RuntimeError | None], message: str) -> rpc_status.Status:
    """Return the status of a batch in which something failed: one `p4.v1.Error` per item, in order."""
    success = AnyMessage()
    success.Pack(p4r.Error(canonical_code=rpc_code.OK))
    status = rpc_status.Status(code=rpc_code.UNKNOWN, message=message)
    for error in results:
        if error is None:
            status.details.append(success)
        else:
            status.details.add().Pack(
                p4r.Error(canonical_code=error.code, message=error.message, space=ERROR_SPACE)
            )
    return status


__all__ = [
    "DETAILS_KEY",
    "ERROR_SPACE",
    "GRPC_CODES",
    "P4RuntimeError",
    "already_exists",
    "batch_status",
    "failed_precondition",
    "internal",
    "invalid_argument",
    "not_found",
    "out_of_range",
    "permission_denied",
    "resource_exhausted",
    "unimplemented",
]
