"""What the data plane has to say by itself: digests and idle entries, of the pipeline that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.idle import IdleWatch
from duet_p4.xdp_switch.p4runtime.staging import Staged

Tell = Callable[[int, p4r.StreamMessageResponse], None]
"""Sends a message about the P4Info object of an id to the controllers that may hear of it."""


class Notifications:
    """Watches one pipeline at a time, on the event loop."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._staged: Staged | None = None
        self._fd: int | None = None
        self._digest_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle: IdleWatch | None = None

    def watch(self, staged: Staged | None) -> None:
        """Watch another pipeline, or none; one that is to be closed must not be watched."""
        loop = asyncio.get_running_loop()
        for timer in (self._digest_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        if self._fd is not None:
            loop.remove_reader(self._fd)
        self._staged, self._fd, self._idle = staged, None, None
        if staged is None:
            return
        self._fd = staged.pipeline.digests.fd
        if self._fd is not None:
            loop.add_reader(self._fd, self._learn)
        self._idle = IdleWatch(staged.forwarding)
        self._wait_for_idle()

    def _learn(self) -> None:
        """Take the samples that wait."""
        assert self._staged is not None
        digests, now = self._staged.forwarding.digests, self._now()
        for message in digests.add(self._staged.pipeline.digests.poll(), now):
            self._tell(message.digest_id, p4r.StreamMessageResponse(digest=message))
        self._wait_for_digests()

    def _send_digests(self) -> None:
        assert self._staged is not None
        for message in self._staged.forwarding.digests.due(self._now()):
            self._tell(message.digest_id, p4r.StreamMessageResponse(digest=message))
        self._wait_for_digests()

    def _wait_for_digests(self) -> None:
        assert self._staged is not None
        if self._digest_timer is not None:
            self._digest_timer.cancel()
        due = self._staged.forwarding.digests.next_due()
        if due is not None:
            self._digest_timer = asyncio.get_running_loop().call_at(due, self._send_digests)

    def _look_for_idle(self) -> None:
        assert self._idle is not None
        for message in self._idle.look(self._now()):
            table_id = message.table_entry[0].table_id
            self._tell(table_id, p4r.StreamMessageResponse(idle_timeout_notification=message))
        self._wait_for_idle()

    def _wait_for_idle(self) -> None:
        assert self._idle is not None
        interval = self._idle.interval()
        if interval is not None:
            self._idle_timer = asyncio.get_running_loop().call_later(interval, self._look_for_idle)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
