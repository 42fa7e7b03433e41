"""Reports to several controllers: one takes each."""

import asyncio
from contextlib import AsyncExitStack

from fastapi import FastAPI
from pydantic import BaseModel

from duet_p4.reporter import HEALTH_REPORTS, reporter_of
from duet_p4.rest.server import serve


class Said(BaseModel):
    number: int


def service(taken: list[int], came: asyncio.Event) -> FastAPI:
    app = FastAPI()

    @app.post(HEALTH_REPORTS, status_code=204)
    async def take(body: Said) -> None:
        taken.append(body.number)
        came.set()

    return app


def test_a_report_goes_to_the_next_controller_where_one_does_not_answer() -> None:
    async def main() -> None:
        first: list[int] = []
        second: list[int] = []
        came = asyncio.Event()
        numbers = iter(range(1, 100))
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            dying = await stack.enter_async_context(AsyncExitStack())
            urls = [
                await dying.enter_async_context(serve(service(first, came), "127.0.0.1", 0, None)),
                await stack.enter_async_context(serve(service(second, came), "127.0.0.1", 0, None)),
            ]
            reporter = await reporter_of(urls, HEALTH_REPORTS, None, 60.0, stack)
            running = asyncio.create_task(reporter.run(lambda: Said(number=next(numbers))))
            await came.wait()
            await dying.aclose()
            came.clear()
            reporter.changed()
            await came.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert (first, second) == ([1], [2])

    asyncio.run(main())
