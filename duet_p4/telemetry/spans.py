"""Spans of the work of this process, and the context that ties them to those of others (W3C Trace Context).

Without somebody who has them recorded, nothing is made: `span` costs a look at a variable.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

HEADER = "traceparent"
"""The request header that has the caller's context."""

Attribute = str | int | bool | float


class Kind(Enum):
    """What a span is of, by OpenTelemetry's names."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"


_tracers: list[Tracer] = []
"""Who makes spans in this process: nobody, or one."""


@contextmanager
def recorded_by(tracer: Tracer) -> Iterator[None]:
    """Have the spans of this process made by `tracer`."""
    _tracers.append(tracer)
    try:
        yield
    finally:
        _tracers.remove(tracer)


def recorded() -> bool:
    """Return whether spans of this process are recorded."""
    return bool(_tracers)


def current() -> SpanContext | None:
    """Return the span whose work is being done, None outside of all and where nothing is recorded."""
    if not _tracers:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def context_of(header: str | None) -> SpanContext | None:
    """Return what a `traceparent` says; None for none, for a bad one, and for one that is not recorded."""
    if not _tracers or not header:
        return None
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    told = TraceContextTextMapPropagator().extract({HEADER: header})
    context = trace.get_current_span(told).get_span_context()
    return context if context.is_valid and context.trace_flags.sampled else None


def inject(headers: MutableMapping[str, str]) -> None:
    """Add to a request's headers whose work it is part of."""
    if not _tracers:
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    TraceContextTextMapPropagator().inject(headers)


@contextmanager
def entered(context: SpanContext | None) -> Iterator[None]:
    """Have spans be children of one of elsewhere, or of another time."""
    if not _tracers:
        yield
        return
    from opentelemetry import context as contexts
    from opentelemetry import trace

    span = trace.INVALID_SPAN if context is None else trace.NonRecordingSpan(context)
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    links: Sequence[SpanContext] = (),
    *,
    root: bool = False,
    **attributes: Attribute,
) -> Iterator[Span | None]:
    """Record a piece of work, and what it raises. It is part of `current()`, or with `root` begins a trace.

    None where it is neither, or nothing is recorded. A dot in the name of an attribute is written as two
    underscores.
    """
    if not _tracers or (current() is None and not root):
        yield None
        return
    from opentelemetry.trace import Link, SpanKind

    with _tracers[-1].start_as_current_span(
        name,
        kind=SpanKind[kind.value],
        links=[Link(context) for context in links],
        attributes=_named(attributes),
    ) as made:
        yield made


def put(span: Span, **attributes: Attribute) -> None:
    """Add attributes to a span; a dot in a name is written as two underscores."""
    span.set_attributes(_named(attributes))


def failed(span: Span, why: str) -> None:
    """Say that a piece of work failed, though nothing was raised."""
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, why)


def _named(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
