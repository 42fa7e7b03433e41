"""BIRD as configured by `duet_p4.bird`, two daemons on a link."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from duet_p4.bird.config import BirdConfig, Neighbor, render
from duet_p4.bird.daemon import Bird, BirdError
from duet_p4.bird.policy import PrefixRange
from tests.integration.netns import inside, ip, link, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin"), reason="bird is not installed"
    ),
]
SPACE = (
    PrefixRange(network=IPv4Network("10.0.0.0/16"), shortest=16, longest=32),
    PrefixRange(network=IPv4Network("172.30.0.0/16"), shortest=32, longest=32),
)
LEFT, RIGHT = IPv4Address("172.31.0.0"), IPv4Address("172.31.0.1")


@pytest.fixture
def ends() -> Iterator[list[str]]:
    with namespaces("l", "r") as names:
        left, right = names
        link(left, "eth0", right, "eth0")
        ip(f"addr add {LEFT}/31 dev eth0", left)
        ip(f"addr add {RIGHT}/31 dev eth0", right)
        yield names


def bird(directory: Path, local: IPv4Address, remote: IPv4Address, asn: int, remote_asn: int) -> Bird:
    directory.mkdir(exist_ok=True)
    router_id = IPv4Address(f"172.30.0.{asn % 100}")
    peer = Neighbor(name="peer", interface="eth0", local=local, address=remote, asn=remote_asn)
    return Bird(
        BirdConfig(
            router_id=router_id,
            asn=asn,
            neighbors=(peer,),
            space=SPACE,
            originated=(IPv4Network(router_id),),
        ),
        directory,
    )


def clock_ms(clock: str) -> float:
    """Return the milliseconds since midnight of a time that BIRD says (12:34:56.789)."""
    hours, minutes, seconds = clock.split(":")
    return ((int(hours) * 60 + int(minutes)) * 60 + float(seconds)) * 1000


async def until(check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 10.0) -> float:
    started = time.monotonic()
    while not await check():
        assert time.monotonic() - started < timeout_s, f"{what} did not come true in {timeout_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - started


def has_route(prefix: str, namespace: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool(ip(f"route show {prefix}", namespace))

    return check


async def start_both(ends: list[str], tmp_path: Path) -> tuple[Bird, Bird]:
    left = bird(tmp_path / "l", LEFT, RIGHT, 65001, 65002)
    right = bird(tmp_path / "r", RIGHT, LEFT, 65002, 65001)
    for one, namespace in zip((left, right), ends, strict=True):
        with inside(namespace):
            await one.start()

    async def established() -> bool:
        sessions = [session for one in (left, right) for session in await one.sessions()]
        return all(session.established and session.bfd == "Up" for session in sessions)

    seconds = await until(established, "the BGP session, and BFD")
    print(f"session established {seconds:.2f} s after start")
    return left, right


def test_a_route_in_the_announce_table_reaches_the_neighbours_fib_and_leaves_again(
    ends: list[str], tmp_path: Path
) -> None:
    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        try:
            await until(has_route("172.30.0.1", ends[1]), "the neighbour's loopback")
            ip("route add blackhole 10.0.0.7/32 table 100 proto 187", ends[0])
            ip("route add blackhole 192.0.2.0/24 table 100 proto 187", ends[0])
            seconds = await until(has_route("10.0.0.7", ends[1]), "the announced route")
            print(f"announced route in the neighbour's FIB after {1000 * seconds:.1f} ms")
            [route] = [r for r in await right.routes() if r.prefix == IPv4Network("10.0.0.7/32")]
            assert (route.protocol, route.via) == ("bgp_peer", ((LEFT, "eth0"),))
            assert not ip("route show 192.0.2.0/24", ends[1]), "a prefix outside of the address space spread"

            ip("route del 10.0.0.7/32 table 100", ends[0])

            async def gone() -> bool:
                return not ip("route show 10.0.0.7", ends[1])

            await until(gone, "the withdrawal")
        finally:
            await left.stop()
            await right.stop()
        assert left.find() is None
        with pytest.raises(BirdError, match="no BIRD at"):
            await left.query("show status")

    asyncio.run(run())


def test_link_down_ends_the_session_at_once(ends: list[str], tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        try:
            await until(has_route("172.30.0.1", ends[1]), "the neighbour's loopback")
            ip("link set eth0 down", ends[0])

            async def gone() -> bool:
                return not ip("route show 172.30.0.1", ends[1])

            seconds = await until(gone, "the loss of the neighbour's routes", timeout_s=1.0)
            print(f"routes of a neighbour whose link went down left after {1000 * seconds:.1f} ms")
        finally:
            await left.stop()
            await right.stop()

    asyncio.run(run())


def test_bird_outlives_its_starter_and_is_taken_over(ends: list[str], tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        successor = Bird(left.config, tmp_path / "l")
        try:
            with inside(ends[0]):
                await successor.start()
            assert successor.pid == left.pid
            [session] = await successor.sessions()
            assert session.established
        finally:
            await successor.stop()
            await right.stop()

    asyncio.run(run())


def test_a_bird_that_dies_is_started_again(ends: list[str], tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        first = left.pid
        assert first is not None
        with inside(ends[0]):
            guard = asyncio.create_task(left.supervise())
            try:
                await asyncio.sleep(0)
                os.kill(first, signal.SIGKILL)

                async def back() -> bool:
                    if left.find() in (None, first):
                        return False
                    return all(session.established for session in await left.sessions())

                await until(back, "a new BIRD with its session")
            finally:
                guard.cancel()
                await left.stop()
                await right.stop()

    asyncio.run(run())


def test_a_configuration_that_bird_refuses_is_reported(ends: list[str], tmp_path: Path) -> None:
    one = bird(tmp_path / "l", LEFT, RIGHT, 65001, 65002)
    broken = one.config.neighbors[0].model_copy(update={"interface": 'et"h'})
    one.config = one.config.model_copy(update={"neighbors": (broken,)})

    async def run() -> None:
        with inside(ends[0]), pytest.raises(BirdError, match="BIRD refuses"):
            await one.start()

    asyncio.run(run())


def test_a_bird_that_hangs_is_given_up_on_and_asked_again_later(ends: list[str], tmp_path: Path) -> None:
    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        assert left.pid is not None
        try:
            os.kill(left.pid, signal.SIGSTOP)
            started = time.monotonic()
            # More than its socket keeps for later, so that some are not even connected.
            questions = [left.query("show status") for _ in range(40)]
            answers = await asyncio.gather(*questions, return_exceptions=True)
            assert all(isinstance(answer, BirdError) for answer in answers), answers
            assert time.monotonic() - started < 3.0
            assert "does not answer in 1 s" in str(answers[0])
            os.kill(left.pid, signal.SIGCONT)

            async def answers_again() -> bool:
                try:
                    return bool(await left.query("show status"))
                except BirdError:
                    return False

            await until(answers_again, "an answer of a BIRD that goes on")
        finally:
            os.kill(left.pid, signal.SIGCONT)
            await left.stop()
            await right.stop()

    asyncio.run(run())


def test_a_configuration_is_replaced_whole_and_told_to_whoever_runs(ends: list[str], tmp_path: Path) -> None:
    """An agent that dies between writing the file and telling BIRD leaves BIRD on the old configuration."""

    async def run() -> None:
        left, right = await start_both(ends, tmp_path)
        try:
            [before] = await left.sessions()
            more = left.config.model_copy(
                update={"originated": (*left.config.originated, IPv4Network("10.0.0.0/16"))}
            )
            successor = Bird(more, tmp_path / "l")
            (tmp_path / "l" / "bird.conf").write_text(render(more, tmp_path / "l" / "bird.log"))
            with inside(ends[0]):
                assert successor.runs(), "so says the file"
                await asyncio.gather(successor.start(), successor.reconfigure(more))
            await until(has_route("10.0.0.0/16", ends[1]), "the prefix of the new configuration")
            [after] = await successor.sessions()
            # BIRD works the time of day out anew each time, so that its last digit may differ.
            apart_ms = abs(clock_ms(after.since) - clock_ms(before.since))
            assert apart_ms < 100, f"the session has gone on since {before.since}, not {after.since}"

            refused = more.model_copy(update={"fib_table": -1})
            with inside(ends[0]), pytest.raises(BirdError, match="BIRD refuses"):
                await successor.reconfigure(refused)
            assert (tmp_path / "l" / "bird.conf").read_text() == render(more, tmp_path / "l" / "bird.log")
        finally:
            await left.stop()
            await right.stop()

    asyncio.run(run())
