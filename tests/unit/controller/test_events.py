import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from controller.events import EventLog
from controller.records import Event
from controller.store import SqliteStore


def run(path: Path, work: Callable[[EventLog], Awaitable[None]]) -> None:
    async def main() -> None:
        store = SqliteStore(path / "duet.db")
        log = EventLog(store, (await store.load()).last_event)
        writing = asyncio.create_task(log.run())
        try:
            await asyncio.wait_for(work(log), 20)
        finally:
            writing.cancel()
            await store.close()

    asyncio.run(main())


async def take(log: EventLog, after: int | None, count: int) -> list[Event]:
    found: list[Event] = []
    async for event in log.follow(after, 10.0):
        if event is not None:
            found.append(event)
        if len(found) == count:
            break
    return found


def test_a_reader_that_is_slow_misses_no_event(tmp_path: Path) -> None:
    async def work(log: EventLog) -> None:
        log.add("first", "x")
        stream = log.follow(0, 10.0)
        seen = [await anext(stream)]
        for number in range(5000):
            log.add("more", str(number))
        while len(seen) < 5001:
            seen.append(await anext(stream))
        assert [event.id for event in seen if event] == list(range(1, 5002))

    run(tmp_path, work)


def test_a_reader_goes_on_where_it_was_over_a_restart(tmp_path: Path) -> None:
    async def before(log: EventLog) -> None:
        for number in range(5):
            log.add("event", str(number))
        await log.flush()

    async def after(log: EventLog) -> None:
        log.add("event", "new")
        assert [event.subject for event in await take(log, 3, 3)] == ["3", "4", "new"]

    run(tmp_path, before)
    run(tmp_path, after)


def test_after_none_means_from_now_and_after_0_means_all(tmp_path: Path) -> None:
    async def work(log: EventLog) -> None:
        log.add("event", "old")
        await log.flush()
        assert [event.subject for event in await take(log, 0, 1)] == ["old"]
        reading = asyncio.create_task(take(log, None, 1))
        await asyncio.sleep(0)
        log.add("event", "new")
        assert [event.subject for event in await reading] == ["new"]

    run(tmp_path, work)


def test_a_quiet_stream_says_that_it_is_alive(tmp_path: Path) -> None:
    async def work(log: EventLog) -> None:
        assert await anext(log.follow(None, 0.01)) is None

    run(tmp_path, work)
