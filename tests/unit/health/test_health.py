"""Health checks against a real server on the loopback, and the counting of successes and failures."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import IPv4Address
from typing import Any

import pytest

from duet_p4.api.health import DipHealth
from duet_p4.health.checks import CheckError, Dial, check, connect
from duet_p4.health.monitor import HealthMonitor, Target
from duet_p4.model import Checked, HealthCheck, HealthCheckKind, Protocol

VIP, DIP = IPv4Address("10.0.0.1"), IPv4Address("127.0.0.1")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Service:
    """A server whose answer, and whose being there, the test decides."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.asked: list[bytes] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, str(DIP), self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.read(1000))
        writer.write(self.answer)
        writer.close()


def what(service: Service, **options: int) -> HealthCheck:
    base = {"interval_ms": 10, "timeout_ms": 200, "fall": 3, "rise": 2}
    return HealthCheck(kind=HealthCheckKind.HTTP, port=service.port, path="/up", **(base | options))


async def dial(protocol: Protocol, port: int) -> socket.socket:
    return await connect(protocol, DIP, port)


def dial_to(vip: IPv4Address, dip: IPv4Address, target: Target) -> Dial:
    assert (vip, dip) == (VIP, DIP)
    return dial


def with_service(work: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        service = Service()
        await service.start()
        try:
            async with asyncio.timeout(20):
                await work(service)
        finally:
            await service.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 299 Fine\r\n\r\n", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "GET /up: 503 Service Unavailable"),
        (b"HTTP/1.1 301 Moved\r\n\r\n", "GET /up: 301 Moved"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (b"x" * 10_000, "not HTTP"),
    ],
)
def test_an_http_check_wants_2xx(answer: bytes, reason: str | None) -> None:
    async def work(service: Service) -> None:
        service.answer = answer
        if reason is None:
            await check(what(service), VIP, DIP, dial)
        else:
            with pytest.raises(CheckError, match=reason):
                await check(what(service), VIP, DIP, dial)
        assert service.asked[0].startswith(b"GET /up HTTP/1.1\r\nHost: 10.0.0.1\r\n")

    with_service(work)


def test_a_tcp_check_wants_a_connection() -> None:
    async def work(service: Service) -> None:
        await check(HealthCheck(port=service.port), VIP, DIP, dial)
        await service.stop()
        with pytest.raises(CheckError, match=rf"127\.0\.0\.1:{service.port}"):
            await check(HealthCheck(port=service.port), VIP, DIP, dial)

    with_service(work)


def test_a_server_that_hangs_fails_in_time() -> None:
    async def work(service: Service) -> None:
        async def hang(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        silent = await asyncio.start_server(hang, str(DIP), 0)
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(CheckError, match="does not answer in 50 ms"):
            await check(HealthCheck(kind=HealthCheckKind.HTTP, port=port, timeout_ms=50), VIP, DIP, dial)
        silent.close()

    with_service(work)


def test_rise_and_fall_are_counted_and_changes_are_told() -> None:
    async def work(service: Service) -> None:
        history: list[DipHealth] = []
        changed = asyncio.Event()
        monitor = HealthMonitor(dial_to, lambda: (history.extend(monitor.health()), changed.set())[-1])

        async def change() -> DipHealth:
            await changed.wait()
            changed.clear()
            return history[-1]

        monitor.put_vip(VIP, {Checked(DIP): Target(what(service))})
        assert [health.up for health in monitor.health()] == [None]
        first = await change()
        assert (first.up, first.checks) == (True, 1), "one success is enough to begin with"
        service.answer = b"HTTP/1.1 500 Oops\r\n\r\n"
        down = await change()
        assert (down.up, down.detail) == (False, "GET /up: 500 Oops")
        assert down.checks >= first.checks + 3, "three failures in a row are needed"
        service.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        up = await change()
        assert (up.up, up.detail) == (True, "")
        assert up.checks >= down.checks + 2, "two successes in a row are needed"
        assert len(history) == 3
        await monitor.close()
        assert monitor.health() == []

    with_service(work)


def test_an_unchanged_check_goes_on_undisturbed() -> None:
    async def work(service: Service) -> None:
        seen = asyncio.Event()
        monitor = HealthMonitor(dial_to, seen.set)
        targets = {Checked(DIP): Target(what(service))}
        monitor.put_vip(VIP, targets)
        await seen.wait()
        before = monitor.health()[0]
        monitor.put_vip(VIP, targets)
        assert monitor.health()[0].since == before.since
        monitor.put_vip(VIP, {Checked(DIP): Target(what(service, fall=1))})
        assert monitor.health()[0].up is None, "another check begins afresh"
        monitor.put_vip(VIP, {})
        assert monitor.health() == []
        await monitor.close()

    with_service(work)


def test_a_dip_that_flaps_has_to_prove_itself_longer() -> None:
    async def work(service: Service) -> None:
        changed = asyncio.Event()
        monitor = HealthMonitor(dial_to, changed.set)
        monitor.put_vip(VIP, {Checked(DIP): Target(what(service, interval_ms=10, fall=1, rise=2))})

        async def verdict() -> DipHealth:
            await changed.wait()
            changed.clear()
            return monitor.health()[0]

        last = await verdict()
        needed = []
        for _ in range(3):
            service.answer = b"HTTP/1.1 500 Oops\r\n\r\n"
            down = await verdict()
            assert (last.up, down.up) == (True, False)
            service.answer = b"HTTP/1.1 200 OK\r\n\r\n"
            last = await verdict()
            needed.append(last.checks - down.checks)
        assert needed[0] <= 3, "the first time it is back by its rise"
        assert needed[1] >= 4, "the second time it needs twice as many successes"
        assert needed[2] >= 8
        await monitor.close()

    with_service(work)


def test_a_checker_that_was_busy_asks_again_though_not_for_ever() -> None:
    asked = 0

    async def busy(protocol: Protocol, port: int) -> socket.socket:
        nonlocal asked
        asked += 1
        time.sleep(0.1)  # noqa: ASYNC251 - what keeps the checker from its work
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def work(service: Service) -> None:
        changed = asyncio.Event()
        monitor = HealthMonitor(lambda vip, dip, target: busy, changed.set)
        monitor.put_vip(VIP, {Checked(DIP): Target(what(service, timeout_ms=10, fall=2))})
        await changed.wait()
        (found,) = monitor.health()
        assert (found.up, found.checks, asked) == (False, 2, 6)
        await monitor.close()

    with_service(work)


def test_checks_of_many_dips_spread_over_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their first wait, and by a tenth of the interval more or less each time, so that all part."""
    waits: dict[str, list[float]] = {}
    pause = asyncio.sleep

    async def sleep(seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        waits.setdefault(task.get_name(), []).append(seconds)
        await pause(0)

    async def work(service: Service) -> None:
        dips = [Checked(DIP, f"tcp/{port}") for port in range(50)]
        asked = HealthCheck(port=service.port, interval_ms=60_000, timeout_ms=1000)
        monitor = HealthMonitor(dial_to, lambda: None)
        with monkeypatch.context() as patch:
            patch.setattr("duet_p4.health.monitor.asyncio.sleep", sleep)
            monitor.put_vip(VIP, {dip: Target(asked) for dip in dips})
            while len(waits) < len(dips) or min(map(len, waits.values())) < 4:
                await pause(0.001)
            await monitor.close()
        firsts = [found[0] for found in waits.values()]
        assert 0 <= min(firsts) < 0.3 and 0.7 < max(firsts) <= 1.0, "of at most a second"
        later = [seconds for found in waits.values() for seconds in found[1:]]
        assert 50 < min(later) < 57 and 63 < max(later) <= 66

    with_service(work)
