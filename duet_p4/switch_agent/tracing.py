"""Traces of the P4 switch, as the switch agent offers them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc

from duet_p4.api.problems import ConflictError, ProblemError, UnavailableError, UnknownError
from duet_p4.api.trace import PacketTrace, TraceBegun, Traced, TraceRequest

METHOD = "/duet.v1.Trace/Follow"
"""Of the xdp switch; BMv2 has none."""

_KEPT = 4
"""Traces that can be asked for, the last ones."""
_BEGIN_S = 30.0
_END_S = 5.0


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
    """The traces of one switch, one at a time; see `api.trace.TraceService`."""

    def __init__(self, device: str, connect: Callable[[], grpc.aio.Channel]) -> None:
        """`connect` opens a channel to the P4 switch."""
        self._device = device
        self._connect = connect
        self._traces: dict[str, _Trace] = {}
        self._turn = asyncio.Lock()

    async def begin(self, request: TraceRequest) -> TraceBegun:
        """Follow packets."""
        async with self._turn:
            if any(not trace.seen().ended for trace in self._traces.values()):
                raise ConflictError(f"{self._device} follows packets for another trace", "trace-busy")
            number, trace = secrets.token_hex(8), _Trace()
            following = asyncio.Event()
            trace.task = asyncio.create_task(self._follow(request, trace, following), name="trace")
            waiting = asyncio.create_task(following.wait())
            try:
                await asyncio.wait(
                    {waiting, trace.task}, timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiting.cancel()
            if trace.task.done():
                trace.task.result()
            if not following.is_set():
                trace.task.cancel()
                raise UnavailableError(f"{self._device} did not begin to trace within {_BEGIN_S:g} s")
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
            _, late = await asyncio.wait({found.task}, timeout=_END_S)
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

    async def _follow(self, request: TraceRequest, trace: _Trace, following: asyncio.Event) -> None:
        async with self._connect() as channel, self._refusals():

            async def requests() -> AsyncIterator[bytes]:
                yield request.model_dump_json().encode()
                await trace.ending.wait()

            call = channel.stream_stream(METHOD, None, None)(
                requests(), timeout=_BEGIN_S + request.seconds + _END_S
            )
            async for message in call:
                if not message:
                    following.set()
                elif message.startswith(b'{"packets"'):
                    trace.lost = Traced.model_validate_json(message).lost
                else:
                    packet = PacketTrace.model_validate_json(message)
                    trace.packets.append(packet.model_copy(update={"device": self._device}))

    @contextlib.asynccontextmanager
    async def _refusals(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._problem(error) from error

    def _problem(self, error: grpc.aio.AioRpcError) -> ProblemError:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ConflictError(f"{self._device}: {error.details()}", "trace-busy")
        if error.code() is grpc.StatusCode.UNIMPLEMENTED and not error.details():
            return UnavailableError(f"{self._device} runs BMv2, which does not trace: only xdp does")
        return UnavailableError(f"{self._device} does not trace: {error.details() or error.code().name}")
