"""The queue of addresses: who is woken, and for what."""

import asyncio
from ipaddress import IPv4Address

from controller.updater.lane import Priority
from controller.updater.queue import WorkQueue

A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def run(scenario: object) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario(WorkQueue[int]())  # type: ignore[operator]

    asyncio.run(main())


async def idle_workers(queue: WorkQueue[int], count: int) -> list[asyncio.Task[tuple[IPv4Address, Priority]]]:
    workers = [asyncio.create_task(queue.get()) for _ in range(count)]
    await asyncio.sleep(0)
    return workers


def test_of_many_who_wait_one_is_woken_for_each_address() -> None:
    async def scenario(queue: WorkQueue[int]) -> None:
        workers = await idle_workers(queue, 5)
        queue.add(A, Priority.REPAIR)
        queue.add(B, Priority.HEALTH)
        done, waiting = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {worker.result()[0] for worker in done} == {A, B}
        assert not any(worker.done() for worker in waiting)
        for worker in waiting:
            worker.cancel()

    run(scenario)


def test_what_is_due_later_comes_then_to_one_of_them() -> None:
    async def scenario(queue: WorkQueue[int]) -> None:
        first, second = await idle_workers(queue, 2)
        queue.add(A, Priority.REPAIR, in_s=0.05)
        queue.add(B, Priority.REPAIR, in_s=0.01)
        assert (await first)[0] == B
        assert (await second)[0] == A

    run(scenario)


def test_a_worker_that_is_cancelled_as_it_is_woken_leaves_the_work_to_another() -> None:
    async def scenario(queue: WorkQueue[int]) -> None:
        first, second = await idle_workers(queue, 2)
        queue.add(A, Priority.OPERATOR)
        first.cancel()
        assert (await second)[0] == A

    run(scenario)
