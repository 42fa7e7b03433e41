"""Which agents answer. An agent is out of reach once it has missed a few questions in a row."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from pydantic import Field

from controller.reach import Reach
from duet_p4.api.service import Health, State
from duet_p4.model import Model
from duet_p4.rest.client import RestClient, RestError

logger = logging.getLogger(__name__)

_ANSWER_S = 3.0
"""An agent that takes longer to say how it is has missed the question."""

_PARALLEL = 128
"""How many agents are asked at once."""


class AgentState(Model):
    """One agent as monitoring sees it; `since` is a Unix time.

    `trouble` is what it says is wrong with what it has done before, while it answers so. `restarted` has when
    processes of its node were last seen to be others than before.
    """

    name: str
    reach: Reach = Reach.UNKNOWN
    detail: str = ""
    trouble: str = ""
    since: float = Field(default_factory=time.time)
    restarted: dict[str, float] = Field(default_factory=dict)


class AgentWatch:
    """Asks agents for their health, and calls `changed` when an answer changes."""

    def __init__(
        self,
        clients: Mapping[str, RestClient],
        changed: Callable[[AgentState], None],
        *,
        interval_s: float,
        misses: int,
    ) -> None:
        self._clients = clients
        self._changed = changed
        self._interval_s = interval_s
        self._misses = misses
        self._limit = asyncio.Semaphore(_PARALLEL)
        self.states = {name: AgentState(name=name) for name in clients}
        self._processes: dict[str, dict[str, int]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._watching: dict[str, asyncio.Task[None]] = {}

    def adopt(self, clients: Mapping[str, RestClient]) -> None:
        """Watch others from now on; those that stay are watched on."""
        new = {name: client for name, client in clients.items() if self._clients.get(name) is not client}
        for name in [name for name in self._clients if name in new or name not in clients]:
            del self.states[name]
            self._processes.pop(name, None)
            if watching := self._watching.pop(name, None):
                watching.cancel()
        self._clients = dict(clients)
        for name in new:
            self.states[name] = AgentState(name=name)
            self._begin(name, 0.0)

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for position, name in enumerate(self._clients):
                    # Spread over the interval, so that eighty agents are not asked in one burst.
                    self._begin(name, self._interval_s * position / len(self._clients))
                await asyncio.Event().wait()  # Who is watched changes.
        finally:
            self._group, self._watching = None, {}

    def _begin(self, name: str, delay: float) -> None:
        if self._group is not None:
            watch = self._watch(name, self._clients[name], delay)
            self._watching[name] = self._group.create_task(watch, name=f"watch {name}")

    async def _watch(self, name: str, client: RestClient, delay: float) -> None:
        await asyncio.sleep(delay)
        missed = 0
        while True:
            async with self._limit:
                reach, detail, health = await _ask(client)
            missed = missed + 1 if reach is Reach.UNREACHABLE else 0
            if health is not None:
                self._note_processes(name, health.processes)
                self._note_trouble(name, health)
            state = self.states[name]
            if reach is not state.reach and (reach is not Reach.UNREACHABLE or missed >= self._misses):
                update = {"reach": reach, "detail": detail, "since": time.time()}
                self.states[name] = state.model_copy(update=update)
                self._changed(self.states[name])
            await asyncio.sleep(self._interval_s)

    def _note_trouble(self, name: str, health: Health) -> None:
        """Note what an agent says is wrong, in its words of now."""
        trouble = health.detail if health.state is State.DEGRADED else ""
        state = self.states[name]
        if trouble != state.trouble:
            self.states[name] = state.model_copy(update={"trouble": trouble, "detail": health.detail})

    def _note_processes(self, name: str, processes: dict[str, int]) -> None:
        """Note which processes of a node are others than when they were last told of."""
        known = self._processes.setdefault(name, {})
        now = {process: time.time() for process, pid in processes.items() if known.get(process, pid) != pid}
        known |= processes
        if now:
            state = self.states[name]
            self.states[name] = state.model_copy(update={"restarted": state.restarted | now})


async def _ask(client: RestClient) -> tuple[Reach, str, Health | None]:
    """Ask an agent how it is; None where it does not say.

    Whatever goes wrong with that is the agent's, and says nothing of others.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            health = await client.health()
    except RestError as error:
        return Reach.UNREACHABLE, str(error), None
    except TimeoutError:
        return Reach.UNREACHABLE, f"no answer in {_ANSWER_S:g} s", None
    except Exception as error:
        logger.exception("%s cannot be asked how it is", client.url)
        return Reach.UNREACHABLE, f"{type(error).__name__}: {error}", None
    reach = Reach.READY if health.state is State.READY else Reach.UNWELL
    return reach, health.detail, health
