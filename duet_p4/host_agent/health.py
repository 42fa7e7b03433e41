"""Health checks of a server's DIPs: one quiet loop per VIP and DIP.

The check asks the service itself, at the DIP, as the packets of clients do once they are decapsulated:
a dead service is seen, and not only a dead host.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address

from duet_p4.api.health import DipHealth
from duet_p4.api.host import HostVip
from duet_p4.model import HealthCheck, HealthCheckKind

logger = logging.getLogger(__name__)

_MAX_STATUS_LINE = 256


class CheckError(Exception):
    """A check failed; the message says why."""


async def check(what: HealthCheck, vip: IPv4Address, dip: IPv4Address) -> None:
    """Ask a DIP once. Raises CheckError."""
    try:
        async with asyncio.timeout(what.timeout_ms / 1000):
            reader, writer = await asyncio.open_connection(str(dip), what.port, limit=_MAX_STATUS_LINE)
            try:
                if what.kind is HealthCheckKind.HTTP:
                    await _get(reader, writer, what.path, vip)
            finally:
                writer.close()
    except TimeoutError as error:
        raise CheckError(f"{dip}:{what.port} does not answer in {what.timeout_ms} ms") from error
    except OSError as error:
        raise CheckError(f"{dip}:{what.port}: {error.strerror or error}") from error


async def _get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, vip: IPv4Address
) -> None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n".encode())
    try:
        line = (await reader.readline()).decode("latin-1").strip()
    except ValueError as error:
        raise CheckError(f"GET {path}: the answer is not HTTP") from error
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise CheckError(f"GET {path}: the answer is not HTTP: {line!r}")
    if not 200 <= int(words[1]) < 300:
        raise CheckError(f"GET {path}: {' '.join(words[1:])}")


class _Check:
    """One VIP's check of one DIP, with its rise and fall counts."""

    def __init__(self, what: HealthCheck, vip: IPv4Address, dip: IPv4Address, changed: Callable[[], None]):
        self.what = what
        self.health = DipHealth(vip=vip, dip=dip, up=None, since=datetime.now(UTC), checks=0)
        self._changed = changed
        self._streak = 0
        self.task = asyncio.create_task(self._run(), name=f"health of {dip} for {vip}")

    async def _run(self) -> None:
        interval = self.what.interval_ms / 1000
        # Checks of many DIPs spread over the interval by themselves.
        await asyncio.sleep(random.uniform(0, min(interval, 1.0)))
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await check(self.what, self.health.vip, self.health.dip)
            except CheckError as error:
                self._note(up=False, detail=str(error))
            else:
                self._note(up=True, detail="")
            await asyncio.sleep(max(0.0, began + interval - loop.time()))

    def _note(self, *, up: bool, detail: str) -> None:
        old = self.health
        self._streak = 0 if up is old.up else self._streak + 1
        needed = self.what.fall if not up else 1 if old.up is None else self.what.rise
        update: dict[str, object] = {"checks": old.checks + 1, "detail": detail}
        if self._streak >= needed and up is not old.up:
            self._streak = 0
            update |= {"up": up, "since": datetime.now(UTC)}
        self.health = old.model_copy(update=update)
        if self.health.up is not old.up:
            logger.info("DIP %s of %s is %s %s", old.dip, old.vip, "up" if up else "down", detail)
            self._changed()


class HealthMonitor:
    """The checks of every VIP of a server; `changed` is called whenever a DIP's health does."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._checks: dict[tuple[IPv4Address, IPv4Address], _Check] = {}

    def put_vip(self, vip: HostVip) -> None:
        """Check a VIP's DIPs as stated; unchanged checks go on undisturbed."""
        wanted = {(vip.address, dip.address) for dip in vip.dips} if vip.health else set()
        for key, running in list(self._checks.items()):
            if key[0] == vip.address and (key not in wanted or running.what != vip.health):
                self._stop(key)
        for key in wanted - self._checks.keys():
            assert vip.health is not None
            self._checks[key] = _Check(vip.health, *key, self._changed)

    def delete_vip(self, address: IPv4Address) -> None:
        """Stop to check a VIP's DIPs."""
        for key in [key for key in self._checks if key[0] == address]:
            self._stop(key)

    def health(self) -> list[DipHealth]:
        """Return every check's verdict, ordered by VIP and DIP."""
        return [self._checks[key].health for key in sorted(self._checks)]

    async def close(self) -> None:
        """Stop all checks."""
        tasks = [running.task for running in self._checks.values()]
        for key in list(self._checks):
            self._stop(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, key: tuple[IPv4Address, IPv4Address]) -> None:
        self._checks.pop(key).task.cancel()
