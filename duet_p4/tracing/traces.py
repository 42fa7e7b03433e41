"""The traces that an agent offers over REST, one at a time, whatever it is that follows the packets."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from duet_p4.api.problems import ConflictError, UnavailableError, UnknownError
from duet_p4.api.trace import PacketTrace, TraceBegun, Traced, TraceRequest

BEGIN_S = 30.0
"""How long it may take until packets are followed: a variant is compiled and loaded."""
END_S = 5.0
_KEPT = 4
"""Traces that can be asked for, the last ones."""


@dataclass(frozen=True)
class Following:
    """Packets are followed from now on."""


@dataclass(frozen=True)
class Lost:
    """So many records had no room."""

    records: int


News = Following | PacketTrace | Lost
Follow = Callable[[TraceRequest, asyncio.Event], AsyncGenerator[News]]
"""Follows packets until there were enough, the time is over, or the event is set; tells what it sees."""


@dataclass
class _Trace:
    packets: list[PacketTrace] = field(default_factory=list)
    lost: int = 0
    task: asyncio.Task[None] | None = None
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def seen(self) -> Traced:
        ended = self.task is None or self.task.done()
        return Traced(packets=tuple(self.packets), lost=self.lost, ended=ended)


class Traces:
    """The traces of one device, one at a time; see `api.trace.TraceService`."""

    def __init__(
        self,
        device: str,
        kind: Literal["switch", "smux", "server"],
        follow: Follow,
        complete: Callable[[PacketTrace], PacketTrace] = lambda trace: trace,
    ) -> None:
        """`complete` adds to a trace what only the agent knows."""
        self._complete = complete
        self._device = device
        self._kind = kind
        self._follow = follow
        self._traces: dict[str, _Trace] = {}
        self._turn = asyncio.Lock()

    async def begin(self, request: TraceRequest) -> TraceBegun:
        """Follow packets."""
        async with self._turn:
            if any(not trace.seen().ended for trace in self._traces.values()):
                raise ConflictError(f"{self._device} follows packets for another trace", "trace-busy")
            number, trace = secrets.token_hex(8), _Trace()
            following = asyncio.Event()
            trace.task = asyncio.create_task(self._run(request, trace, following), name="trace")
            waiting = asyncio.create_task(following.wait())
            try:
                await asyncio.wait(
                    {waiting, trace.task}, timeout=BEGIN_S, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiting.cancel()
            if trace.task.done():
                trace.task.result()
            if not following.is_set():
                trace.task.cancel()
                raise UnavailableError(f"{self._device} did not begin to trace within {BEGIN_S:g} s")
            self._traces[number] = trace
            for old in list(self._traces)[:-_KEPT]:
                del self._traces[old]
            return TraceBegun(id=number)

    def seen(self, trace: str) -> Traced:
        """Return what a trace has seen."""
        return self._find(trace).seen()

    async def end(self, trace: str) -> Traced:
        """End a trace."""
        found = self._find(trace)
        found.ending.set()
        if found.task is not None:
            _, late = await asyncio.wait({found.task}, timeout=END_S)
            for task in late:
                task.cancel()
        return found.seen()

    async def stop(self) -> None:
        """End all traces at once."""
        for trace in self._traces.values():
            if trace.task is not None:
                trace.task.cancel()
                await asyncio.wait({trace.task})

    def _find(self, trace: str) -> _Trace:
        if trace not in self._traces:
            raise UnknownError(f"{self._device} has no trace {trace!r}")
        return self._traces[trace]

    async def _run(self, request: TraceRequest, trace: _Trace, following: asyncio.Event) -> None:
        async with aclosing(self._follow(request, trace.ending)) as told:
            async for news in told:
                if isinstance(news, Following):
                    following.set()
                elif isinstance(news, Lost):
                    trace.lost = news.records
                else:
                    trace.packets.append(
                        self._complete(news).model_copy(update={"device": self._device, "kind": self._kind})
                    )
