"""Errors with a canonical code, and how P4Runtime reports them for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from finsy.proto import p4r, rpc_code, rpc_status
from google.protobuf.any_pb2 import Any as AnyMessage

ERROR_SPACE = "duet-xdp-switch"
DETAILS_KEY = "grpc-status-details-bin"

MAX_TEXT = 2000
"""Characters of a message: gRPC carries it in a header, and clients refuse large ones."""

GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
"""google.rpc code -> gRPC status code; the numbers are the same."""


class P4RuntimeError(Exception):
    """A request, or one update of a batch, that was refused: nothing has changed."""

    def __init__(self, code: int, message: str) -> None:
        if len(message) > MAX_TEXT:
            message = f"{message[:MAX_TEXT]}... ({len(message)} characters)"
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


def aborted(message: str) -> P4RuntimeError:
    """Something else changed what the request was about; try again."""
    return P4RuntimeError(rpc_code.ABORTED, message)


def internal(message: str) -> P4RuntimeError:
    """The data plane broke its promise."""
    return P4RuntimeError(rpc_code.INTERNAL, message)


class BatchError(P4RuntimeError):
    """Some items of a batch were refused; the others were carried out."""

    def __init__(self, results: Sequence[P4RuntimeError | None], what: str) -> None:
        failures = [error for error in results if error is not None]
        # ABORTED are those that are not there for another's sake.
        reasons = [error for error in failures if error.code != rpc_code.ABORTED] or failures
        super().__init__(
            rpc_code.UNKNOWN,
            f"{what}: {len(failures)} of {len(results)} failed, the first: {reasons[0].message}",
        )
        self.results = results

    def status(self) -> rpc_status.Status:
        """Return one `p4.v1.Error` per item, in order.

        Messages are left out where the whole would become larger than the 8,192 bytes and 100 for each
        update that the specification advises clients to allow for ("gRPC Metadata Maximum Size").
        """
        room = 60 * len(self.results)
        status = rpc_status.Status(code=self.code, message=self.message)
        success = AnyMessage()
        success.Pack(p4r.Error(canonical_code=rpc_code.OK))
        for error in self.results:
            if error is None:
                status.details.append(success)
                continue
            detail = p4r.Error(canonical_code=error.code, message=error.message, space=ERROR_SPACE)
            if detail.ByteSize() > room:
                detail.ClearField("message")
            room -= detail.ByteSize()
            status.details.add().Pack(detail)
        return status


__all__ = [
    "DETAILS_KEY",
    "ERROR_SPACE",
    "GRPC_CODES",
    "BatchError",
    "P4RuntimeError",
    "aborted",
    "already_exists",
    "failed_precondition",
    "internal",
    "invalid_argument",
    "not_found",
    "out_of_range",
    "permission_denied",
    "resource_exhausted",
    "unimplemented",
]
