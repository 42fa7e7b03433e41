"""Spans of the work of this process, and the context that ties them to those of others (W3C Trace Context).

Without somebody who takes spans, nothing is made: `span` costs a look at a variable.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

HEADER = "traceparent"
"""The request header that has the caller's context: version, trace, span, flags."""

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1


class Kind(IntEnum):
    """What a span is of, as OTLP numbers it."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True)
class SpanContext:
    """Which span of which trace, in hexadecimal."""

    trace: str
    span: str


@dataclass
class Span:
    """A piece of work: from when until when (Unix nanoseconds), for whom, and what came of it."""

    name: str
    kind: Kind
    context: SpanContext
    parent: str | None
    start_ns: int
    attributes: dict[str, str | int | bool | float]
    links: tuple[SpanContext, ...] = ()
    end_ns: int = 0
    error: str = ""

    def put(self, **attributes: str | int | bool | float) -> None:
        """Add attributes; a dot in a name is written as two underscores."""
        self.attributes |= _named(attributes)


_current: ContextVar[SpanContext | None] = ContextVar("span", default=None)
_sinks: list[Callable[[Span], None]] = []
"""Who takes spans of this process: nobody, or one."""


def current() -> SpanContext | None:
    """Return the span whose work is being done, None outside of all."""
    return _current.get()


def context_of(header: str | None) -> SpanContext | None:
    """Return what a `traceparent` says; None for none, for a bad one, and for one that is not recorded."""
    found = _PARENT.fullmatch(header or "")
    if not found or not int(found[1], 16) or not int(found[2], 16) or not int(found[3], 16) & _SAMPLED:
        return None
    return SpanContext(found[1], found[2])


def traceparent(context: SpanContext) -> str:
    """Return the header that says so."""
    return f"00-{context.trace}-{context.span}-{_SAMPLED:02x}"


@contextmanager
def entered(context: SpanContext | None) -> Iterator[None]:
    """Have spans be children of one of elsewhere, or of another time."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def taken_by(sink: Callable[[Span], None]) -> Iterator[None]:
    """Have spans given to `sink` as they end."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


@contextmanager
def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    links: Sequence[SpanContext] = (),
    *,
    root: bool = False,
    **attributes: str | int | bool | float,
) -> Iterator[Span | None]:
    """Record a piece of work, and what it raises. It is part of `current()`, or with `root` begins a trace.

    None where it is neither, or nobody takes spans. A dot in the name of an attribute is written as two
    underscores.
    """
    parent = _current.get()
    if not _sinks or (parent is None and not root):
        yield None
        return
    sink = _sinks[-1]
    context = SpanContext(parent.trace if parent else secrets.token_hex(16), secrets.token_hex(8))
    made = Span(
        name,
        kind,
        context,
        parent.span if parent else None,
        time.time_ns(),
        _named(attributes),
        tuple(links),
    )
    token = _current.set(context)
    try:
        yield made
    except BaseException as error:
        made.error = made.error or f"{type(error).__name__}: {error}"
        raise
    finally:
        _current.reset(token)
        made.end_ns = time.time_ns()
        sink(made)


def _named(attributes: dict[str, str | int | bool | float]) -> dict[str, str | int | bool | float]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
