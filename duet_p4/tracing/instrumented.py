"""The instrumented variant of an SMux's or server's data path: the same sources, compiled with TRACED.

It shares every map with the programs that it stands in for, and is there only while somebody wants to see
packets. Should the process end meanwhile, the variant stays where it is pinned until the next one attaches
its own: it forwards as the program does, and writes down no more than the packets that were wanted.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from duet_p4 import bpf
from duet_p4.api.problems import UnavailableError
from duet_p4.api.trace import PacketTrace, TraceRequest
from duet_p4.tracing.steps import Kind, Steps, kind_of, packet_of
from duet_p4.tracing.traces import Follow, Following, Lost, News
from duet_p4.tracing.variant import OWN_MAPS, Variant, shared_maps

_POLL_S = 0.05
TRACED = {"TRACED": "1"}
"""What makes the instrumented variant of a data path's source."""

_IN_FLIGHT_S = 0.01
"""How long a packet may still be in a program that is on no interface any more."""


class Instrumented(Variant):
    """A variant that is loaded; `begin` puts it in the place of the programs, `end` those back."""

    def __init__(
        self,
        source: Path,
        running: bpf.Object,
        rodata: Mapping[str, bytes],
        links: Mapping[str, Sequence[bpf.Link | bpf.Filter]],
        steps: Steps,
    ) -> None:
        """Compile and load it. `links` are the attachments of each program of `running`, by its name.

        Raises UnavailableError where a kernel cannot change programs in place, and BpfError.
        """
        self._running = running
        self._links: dict[str, list[bpf.Link]] = {}
        for name, attached in links.items():
            self._links[name] = [link for link in attached if isinstance(link, bpf.Link)]
            if len(self._links[name]) < len(attached):
                raise UnavailableError("this kernel cannot change a tc program in place: it takes Linux 6.6")
        self._steps = steps
        self._pending: dict[int, list[bytes]] = {}
        loaded = bpf.Object(bpf.compile_object(source, defines=TRACED))
        try:
            loaded.load(
                rodata, share=shared_maps(running, loaded, (*OWN_MAPS, "trace_now")), programs=tuple(links)
            )
            super().__init__(loaded)
        except BaseException:
            loaded.close()
            raise

    def program(self, name: str) -> bpf.Program:
        """Return one of the variant's programs."""
        return self._object.program(name)

    def begin(self) -> None:
        """Take the place of the programs, atomically for the packets."""
        self._put(self._object)

    def end(self) -> None:
        """Put the programs back."""
        self._put(self._running)

    def poll(self) -> list[PacketTrace]:
        """Return the packets that have been through since the last call, as they came in."""
        ended = []
        for record in self._ring.poll():
            packet = packet_of(record)
            records = self._pending.setdefault(packet, [])
            records.append(record)
            if kind_of(record) is Kind.FRAME_OUT:
                ended.append(self._pending.pop(packet))
        # A packet whose first record had no room says nothing by the others.
        whole = [records for records in ended if kind_of(records[0]) is Kind.FRAME_IN]
        return sorted((self._steps.trace(r, _interface) for r in whole), key=lambda trace: trace.began_ns)

    def _put(self, programs: bpf.Object) -> None:
        for name, links in self._links.items():
            for link in links:
                link.update(programs.program(name))


def follower(instrument: Callable[[], Instrumented]) -> Follow:
    """Return what follows packets by variants that are made when a trace begins."""

    async def follow(request: TraceRequest, ending: asyncio.Event) -> AsyncGenerator[News]:
        try:
            variant = await _made(instrument)
        except (bpf.BpfError, OSError) as error:
            raise UnavailableError(f"packets cannot be traced here: {error}") from error
        with closing(variant):
            variant.follow(request.flow, request.packets)
            try:
                variant.begin()
                yield Following()
                left, deadline = request.packets, time.monotonic() + request.seconds
                while left > 0 and time.monotonic() < deadline and not ending.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL_S):
                            await ending.wait()
                    for packet in variant.poll():
                        left -= 1
                        yield packet
            finally:
                variant.end()
            await asyncio.sleep(_IN_FLIGHT_S)
            for packet in variant.poll():
                yield packet
            yield Lost(variant.lost)

    return follow


async def _made(instrument: Callable[[], Instrumented]) -> Instrumented:
    """Compile and load a variant, and let go of it where nobody waits for it any more."""
    making = asyncio.ensure_future(asyncio.to_thread(instrument))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: None if made.exception() else made.result().close())
        raise


def _interface(index: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(index)
    return str(index)
