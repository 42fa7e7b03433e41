"""How a switch agent follows packets of BMv2: by its log and its event log, where it keeps them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from duet_p4.api.problems import UnavailableError
from duet_p4.api.trace import PacketTrace, TraceFlow, TraceRequest
from duet_p4.hmux import pipeline
from duet_p4.tracing.bmv2_events import Numbers, signature, subscribed
from duet_p4.tracing.bmv2_log import Message, Messages, Passage, Passages, Reader
from duet_p4.tracing.frames import belongs
from duet_p4.tracing.traces import Follow, Following, Lost, News
from duet_p4.xdp_switch.compiler.reader import read

_POLL_S = 0.05
_SETTLE_S = 2.0
"""How long after a packet's end its event may come, and how long what is under way may take to end."""


def follower(device: str, log: Path, events: Path) -> Follow:
    """Return what follows packets of a BMv2 that writes to `log` at level trace and publishes at `events`."""

    async def follow(request: TraceRequest, ending: asyncio.Event) -> AsyncGenerator[News]:
        try:
            program = await asyncio.to_thread(lambda: read(pipeline.DEVICE_CONFIG.read_bytes()))
            # Some of BMv2's builds add to the name that they are given.
            tail = Tail(next((path for path in (log, log.with_suffix(".txt")) if path.exists()), log))
            async with subscribed(events) as numbers:
                wanted = Wanted(request.flow, numbers, Reader(program))
                yield Following()
                left, deadline = request.packets, time.monotonic() + request.seconds
                until: float | None = None
                while left > 0 and (until is None or (wanted.pending and time.monotonic() < until)):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL_S):
                            await (asyncio.sleep(_POLL_S) if ending.is_set() else ending.wait())
                    if until is None and (ending.is_set() or time.monotonic() >= deadline):
                        until = time.monotonic() + _SETTLE_S
                    for packet in wanted.take(tail.read())[:left]:
                        left -= 1
                        yield packet
                yield Lost(len(wanted.pending))
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"{device} runs a BMv2 that does not say what it does: {error}") from error

    return follow


class Tail:
    """What is appended to a file, also when another takes its place."""

    def __init__(self, path: Path) -> None:
        """Begin at its end. Raises OSError."""
        self._path = path
        self._file = path.open(encoding="utf-8", errors="replace")
        self._file.seek(0, 2)

    def read(self) -> str:
        """Return what is new."""
        found = self._file.read()
        try:
            new = self._path.stat().st_ino
        except FileNotFoundError:
            return found
        if new != os.fstat(self._file.fileno()).st_ino:
            found += self._file.read()
            self._file.close()
            self._file = self._path.open(encoding="utf-8", errors="replace")
            found += self._file.read()
        return found


class Wanted:
    """Finds the packets of a flow in what a log says."""

    def __init__(
        self, flow: TraceFlow, numbers: Numbers, reader: Reader, patience_s: float = _SETTLE_S
    ) -> None:
        """A packet whose event does not come for `patience_s` is none of the flow's."""
        self._patience_s = patience_s
        self._flow = flow
        self._numbers = numbers
        self._reader = reader
        self._messages = Messages()
        self._passages = Passages()
        self._frames: dict[int, bytes] = {}
        self.pending: set[int] = set()
        """The flow's frames that have come in and are not through."""
        self._ended: deque[tuple[float, Passage]] = deque()

    def take(self, text: str) -> list[PacketTrace]:
        """Take what is new in the log; returns the flow's packets that are through."""
        now = time.monotonic()
        for message in self._messages.cut(text):
            self._note(message)
            self._ended += ((now, passage) for passage in self._passages.take(message))
        found = []
        for _ in range(len(self._ended)):
            at, passage = self._ended.popleft()
            told = self._numbers.signature_of(passage.packet)
            if told is not None and told in self._frames:
                self.pending.discard(told)
                found.append(self._reader.trace(passage, self._frames[told]))
            elif told is None and now - at <= self._patience_s:
                self._ended.append((at, passage))
        return found

    def _note(self, message: Message) -> None:
        frame = message.received
        if frame is not None and belongs(frame, self._flow):
            number = signature(frame)
            self._frames[number] = frame
            self.pending.add(number)
