"""Makes a difference small enough to understand: fewer bytes that matter, fewer table entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finsy.proto import p4r

from ptf_tests.conformance.headers import repair
from ptf_tests.conformance.program import MIN_FRAME


def shrink_frame(frame: bytes, differs: Callable[[bytes], bool]) -> bytes:
    """Return a frame that still differs, as short and with as many zeros as could be found.

    Each attempt is made as it is and with its checksum repaired.
    """

    def first(attempt: bytes) -> bytes | None:
        return next((f for f in (attempt, repair(attempt)) if f != frame and differs(f)), None)

    step = len(frame) // 2
    while step:
        shorter = first(frame[:-step]) if len(frame) - step >= MIN_FRAME else None
        if shorter is None:
            step //= 2
        else:
            frame = shorter
    step = 16
    while step:
        for at in range(0, len(frame), step):
            piece = frame[at : at + step]
            if any(piece):
                frame = first(frame[:at] + bytes(len(piece)) + frame[at + step :]) or frame
        step //= 2
    return frame


def shrink_entries(
    updates: Sequence[p4r.Update], write: Callable[[Sequence[p4r.Update]], None], differs: Callable[[], bool]
) -> list[p4r.Update]:
    """Take table entries away while the difference stays; return the updates that are left.

    `write` changes the tables of both targets. Action profiles and default actions stay as they are.
    """
    left = list(updates)
    entries = [u for u in updates if u.type == p4r.Update.INSERT and u.entity.HasField("table_entry")]
    step = len(entries)
    while step:
        for at in range(0, len(entries), step):
            chunk = [u for u in entries[at : at + step] if u in left]
            write([p4r.Update(type=p4r.Update.DELETE, entity=u.entity) for u in chunk])
            if differs():
                left = [u for u in left if u not in chunk]
            else:
                write(chunk)
        step //= 2
    return left
