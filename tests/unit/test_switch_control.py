"""The switch agent's state machine, its ports and its supervised tasks, without a switch."""

import asyncio
import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from duet_p4.backoff import Backoff
from duet_p4.bird.config import Neighbor
from duet_p4.bird.daemon import BirdError
from duet_p4.supervision import Tasks
from duet_p4.switch_agent.control import Control, Event, Phase
from duet_p4.switch_agent.ports import Damping, Ports

NEIGHBOR = Neighbor(
    name="agg1", interface="hif1", local=IPv4Address("172.31.0.0"), address=IPv4Address("172.31.0.1"), asn=1
)


def control(*events: Event) -> tuple[Control, list[Phase]]:
    entered: list[Phase] = []
    made = Control(lambda phase, before: entered.append(phase))
    for event in events:
        made.note(event, "why it was")
    return made, entered


READY = (Event.CONNECTED, Event.ADOPTED)


def test_a_write_in_doubt_leads_to_reading_back_and_to_nothing_else() -> None:
    doubting, entered = control(*READY, Event.SUSPECTED)
    assert doubting.phase is Phase.DOUBT
    assert doubting.phase.forwards and doubting.phase.in_session
    assert "a write is in doubt: why it was" in doubting.trouble()
    assert doubting.note(Event.ADOPTED) is Phase.READY
    assert doubting.trouble() == ""
    assert entered == [Phase.ADOPTING, Phase.READY, Phase.DOUBT, Phase.READY]


def test_a_lost_session_is_waited_for_and_only_time_or_death_end_that() -> None:
    lost, _ = control(*READY, Event.SESSION_ENDED)
    assert lost.phase is Phase.LOST and lost.phase.forwards and not lost.phase.in_session
    assert lost.note(Event.SESSION_ENDED) is Phase.LOST
    assert control(*READY, Event.SESSION_ENDED, Event.CONNECTED, Event.ADOPTED)[0].phase is Phase.READY
    for end in (Event.GRACE_ENDED, Event.DIED):
        dead, _ = control(*READY, Event.SESSION_ENDED, end)
        assert dead.phase is Phase.DEAD and not dead.phase.forwards
        assert dead.note(Event.CONNECTED) is Phase.ADOPTING


def test_only_a_lost_switch_can_die_and_only_an_adopted_one_is_ready() -> None:
    for events in itertools.product(Event, repeat=4):
        made = Control(lambda phase, before: None)
        for event in events:
            before = made.phase
            after = made.note(event)
            if after is Phase.DEAD and before is not Phase.DEAD:
                assert before is Phase.LOST, "a doubt or the end of a session alone takes nothing down"
            if after is Phase.READY and before is not Phase.READY:
                assert event is Event.ADOPTED and before.in_session


@dataclass
class World:
    """What ports tell others, in order; BIRD fails for a while where it is told to."""

    log: list[str] = field(default_factory=list)
    failures: int = 0
    crowded: int = 0

    async def set_session(self, neighbor: Neighbor, *, enabled: bool) -> None:
        if self.failures:
            self.failures -= 1
            self.log.append("BIRD is busy")
            raise BirdError("busy")
        self.log.append(f"session {'on' if enabled else 'off'}")

    def resolve(self, number: int) -> None:
        if self.crowded:
            self.crowded -= 1
            raise OSError(105, "No buffer space available")
        self.log.append("resolve")

    def forget(self, number: int) -> None:
        self.log.append("forget")

    def set_carrier(self, number: int, up: bool) -> None:
        self.log.append(f"carrier {'on' if up else 'off'}")

    async def written(self) -> None:
        self.log.append("written")

    async def until(self, last: str, times: int = 1) -> list[str]:
        async with asyncio.timeout(10):
            while self.log.count(last) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        log, self.log = self.log, []
        return log


def follow(world: World) -> tuple[Ports, "asyncio.Task[None]"]:
    ports = Ports({1: NEIGHBOR}, world, world, world.set_carrier, world.written)
    return ports, asyncio.create_task(ports.run())


def test_what_leads_around_a_dead_link_comes_before_bgp_and_the_host_interface_last() -> None:
    async def run() -> None:
        world = World()
        ports, running = follow(world)
        ports.carrier_changed(1, True)
        await asyncio.sleep(0.02)
        assert world.log == [], "a predecessor's ports are left alone before the switch was met"
        ports.use(True)
        assert await world.until("carrier on") == ["session on", "resolve", "carrier on"]
        ports.carrier_changed(1, False)
        assert await world.until("carrier off") == ["written", "session off", "forget", "carrier off"]
        running.cancel()

    asyncio.run(run())


def test_a_busy_bird_is_asked_again_and_holds_nothing_else_up() -> None:
    async def run() -> None:
        world = World(failures=3)
        ports, running = follow(world)
        ports.use(True)
        ports.carrier_changed(1, True)
        log = await world.until("session on")
        assert log.count("BIRD is busy") == 3
        assert log.index("carrier on") < log.index("session on")
        assert (log.count("carrier on"), log.count("resolve")) == (1, 1), "what was done is not done again"
        ports.bird_restarted()
        assert await world.until("session on") == ["session on"]
        running.cancel()

    asyncio.run(run())


def test_a_neighbour_table_without_room_is_asked_again() -> None:
    async def run() -> None:
        world = World(crowded=2)
        ports, running = follow(world)
        ports.use(True)
        ports.carrier_changed(1, True)
        log = await world.until("resolve")
        assert log == ["session on", "carrier on", "resolve"]
        running.cancel()

    asyncio.run(run())


def test_the_ports_of_a_dead_switch_go_down_and_come_up_with_it() -> None:
    async def run() -> None:
        world = World()
        ports, running = follow(world)
        ports.use(True)
        ports.carrier_changed(1, True)
        await world.until("carrier on")
        ports.use(False)
        await world.until("carrier off")
        ports.use(True)
        assert await world.until("carrier on") == ["session on", "resolve", "carrier on"]
        running.cancel()

    asyncio.run(run())


def test_bgp_ends_with_a_silent_neighbour_and_the_stack_keeps_the_link() -> None:
    async def run() -> None:
        world = World()
        ports, running = follow(world)
        ports.use(True)
        ports.carrier_changed(1, True)
        await world.until("carrier on")
        ports.silence_changed(1, True)
        assert await world.until("session off") == ["written", "session off"]
        ports.silence_changed(1, False)
        assert await world.until("session on") == ["session on"]
        ports.silence_changed(1, True)
        await world.until("session off")
        ports.carrier_changed(1, False)
        ports.carrier_changed(1, True)
        assert "session on" in await world.until("session on"), "a new link is not silent"
        running.cancel()

    asyncio.run(run())


def test_a_port_that_flaps_is_used_again_only_once_it_is_quiet() -> None:
    damping = Damping()
    waits = []
    for second in range(8):
        damping.went_down(float(second))
        waits.append(damping.wait_s())
    assert waits[:3] == [0.0, 0.0, 0.0], "a few flaps cost nothing"
    assert waits == sorted(waits) and 1.0 < waits[-1] <= 10.0
    damping.went_down(1000.0)
    assert damping.wait_s() == 0.0, "long ago is forgotten"


def test_a_task_that_fails_is_said_and_started_again() -> None:
    async def run() -> None:
        tasks, runs, second = Tasks(), [], asyncio.Event()

        async def work() -> None:
            runs.append(1)
            if len(runs) == 1:
                raise OSError(22, "Invalid argument")
            second.set()
            await asyncio.Event().wait()

        tasks.start("following a port", work)
        async with asyncio.timeout(5):
            await second.wait()
        assert "following a port failed: OSError(22" in tasks.problem()
        await tasks.stop()

    asyncio.run(run())


def test_waits_double_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.failed() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.succeeded()
    assert backoff.failed() == 1.0
