import asyncio

import pytest

from controller.jobs import Job, Supervisor
from duet_p4.api.service import State


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.jobs.FIRST_PAUSE_S", 0.01)


def run(supervisor: Supervisor, until: asyncio.Event) -> None:
    async def main() -> None:
        task = asyncio.create_task(supervisor.run())
        await asyncio.wait_for(until.wait(), 10)
        task.cancel()

    asyncio.run(main())


def test_a_job_that_fails_goes_on_stops_no_other_and_is_said_once() -> None:
    told: list[tuple[str, str]] = []
    enough = asyncio.Event()
    done: list[str] = []

    async def bad() -> None:
        raise KeyError("bug")

    async def good() -> None:
        done.append("good")
        if len(done) > 20 and jobs[0].failures > 2:
            enough.set()

    jobs = [Job("bad", bad, every_s=0.001), Job("good", good, every_s=0.001)]
    supervisor = Supervisor(jobs, lambda job, why: told.append((job, why)))
    run(supervisor, enough)
    assert told == [("bad", "KeyError: 'bug'")]
    assert supervisor.health().state is State.DEGRADED
    assert supervisor.health().detail == "bad: KeyError: 'bug'"


def test_a_job_that_ends_though_it_should_not_is_started_again() -> None:
    starts: list[int] = []
    enough = asyncio.Event()

    async def ends() -> None:
        starts.append(1)
        if len(starts) == 3:
            enough.set()

    told: list[str] = []
    run(Supervisor([Job("ends", ends)], lambda _, why: told.append(why)), enough)
    assert told == ["RuntimeError: it ended by itself"]


def test_a_job_that_works_again_is_well_again() -> None:
    enough = asyncio.Event()
    tries: list[int] = []

    async def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        if len(tries) == 3:
            enough.set()

    supervisor = Supervisor([Job("flaky", flaky, every_s=0.001)], lambda *_: None)
    run(supervisor, enough)
    assert supervisor.health().state is State.READY
    assert (supervisor.jobs[0].failures, supervisor.jobs[0].error) == (1, "")
