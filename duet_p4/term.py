"""The highest term whose writes an agent has seen: who leads no more is refused, whatever else dies."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from pathlib import Path

from duet_p4 import durable
from duet_p4.api.problems import OldTermError
from duet_p4.api.term import MAX_TERM

logger = logging.getLogger(__name__)

_carried: ContextVar[int | None] = ContextVar("term", default=None)


def carried() -> int:
    """Return the term that the write that is being carried out has; 0 without one."""
    return _carried.get() or 0


class Terms:
    """The highest term seen, kept in a file.

    The guard before all paths (`duet_p4.rest.app`) calls `admit` for each write, and whoever carries the
    write out calls `check` once it is its turn: a newer leader's may have come in between.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read what was seen; without a path nothing is kept. An unreadable file is said in `problem`."""
        self._path = path
        self.highest = 0
        self.problem = ""
        if path is not None and path.exists():
            try:
                self.highest = _number(path.read_text(encoding="ascii").strip())
            except ValueError:
                bad = path.with_name(f"{path.name}.bad")
                path.replace(bad)
                self.problem = f"the highest term could not be read from {path}: set aside as {bad}"
                logger.error("%s", self.problem)

    def admit(self, text: str | None) -> None:
        """Take note of the term that a write carries.

        Raises OldTermError for one below the highest, ValueError for what is no term, and OSError where it
        cannot be kept.
        """
        term = _number(text) if text is not None else 0
        _carried.set(term)
        self.check()
        if term > self.highest:
            if self._path is not None:
                durable.write(self._path, f"{term}\n".encode())
            self.highest = term

    def check(self) -> None:
        """Raise OldTermError where the write that is being carried out is of an old term."""
        term = _carried.get()
        if term is not None and term < self.highest:
            raise OldTermError(f"term {term} is over: the leader has term {self.highest}")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_TERM:
        raise ValueError(f"{text[:40]!r} is no term")
    return int(text)
