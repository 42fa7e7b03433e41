"""The controller at work on a small FatTree: what its operator is promised, checked with live traffic."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import networkx as nx
import pytest

from controller.client import ControllerClient
from controller.records import ON_SMUXES
from controller.updater.plan import Wave
from duet_p4.api.service import State
from duet_p4.model import Dip, Vip
from duet_p4.rest.client import RefusedError, RestError
from mininet_topos.experiments import consistency, control, convergence, failures, migration, scale
from mininet_topos.experiments.agent_logs import AgentLogs
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import Running
from mininet_topos.fattree import FatTree
from mininet_topos.testbed import agents, namespaces, probe
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.operation import running
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask
from mininet_topos.testbed.supervisor import ProcessStatus
from mininet_topos.testbed.supervisor import State as ProcessState
from mininet_topos.testbed.vipfile import StatedVip

pytestmark = [
    pytest.mark.root,
    pytest.mark.testbed,
    pytest.mark.skipif(os.geteuid() != 0, reason="a testbed needs root"),
]

SMALL = FatTree(containers=1, tors=2, aggs=2, cores=2, servers=3, dip_servers=6, smux_tors=(1, 2))
DIPS = [IPv4Address(f"100.1.{tor}.{host}") for host in (17, 33, 49) for tor in (1, 2)]
WAIT_S = 45.0
ASK_S = 20.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Testbed:
    __test__ = False

    folder: Folder
    graph: nx.Graph

    def controller(self, work: Callable[[ControllerClient], Awaitable[Result]]) -> Result:
        """Ask the controller something."""

        async def run() -> Result:
            async with agents.controller(self.folder) as client:
                return await work(client)

        return asyncio.run(run())

    def process(self, node: str, name: str) -> ProcessStatus:
        processes = ask(self.folder, Request(do="status")).processes
        return next(p for p in processes if (p.node, p.name) == (node, name))

    def kill(self, node: str, name: str) -> int:
        """Kill a process the hard way; its supervisor starts it again. Returns its id."""
        pid = self.process(node, name).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def await_restart(self, node: str, name: str, killed: int) -> None:
        def again() -> str:
            status = self.process(node, name)
            return "" if status.state is ProcessState.RUNNING and status.pid != killed else str(status)

        await_that(again)

    def await_controller(self) -> None:
        """Wait until the controller answers."""

        async def health(client: ControllerClient) -> str:
            try:
                answer = await client.health()
            except RestError as error:
                return str(error)
            return "" if answer.state is State.READY else str(answer)

        await_that(lambda: self.controller(health))

    def await_converged(self) -> None:
        """Wait until every device holds what the controller says it shall: each is read back."""
        await_that(self.differences)

    def differences(self) -> str:
        async def read_back() -> list[str]:
            async with agents.controller(self.folder) as client:
                records = await client.vips()
            return await convergence.undone(self.folder, self.graph, records)

        return "\n".join(asyncio.run(read_back()))

    def writes(self) -> dict[str, int]:
        """Return how many entries each mux wrote since it started."""

        async def ask_all() -> dict[str, int]:
            async with agents.connect(self.folder, self.graph) as found:
                return {name: (await mux.status()).writes for name, mux in found.muxes.items()}

        return asyncio.run(ask_all())

    def errors(self, client: str, vip: IPv4Address, count: int = 20, timeout_s: float = 5.0) -> list[str]:
        """Open connections to a VIP; returns what went wrong."""
        source = self.graph.nodes[client]["node"].address

        async def burst() -> list[str]:
            found = await asyncio.gather(*(probe.http(source, vip, 80, timeout_s) for _ in range(count)))
            return [exchange.error for exchange in found if exchange.error]

        return probe.run_in({client: (self.folder.namespace(client), burst)})[client]


def await_that(problem: Callable[[], str]) -> None:
    """Wait until there is no problem any more; fails with the last one."""
    deadline = time.monotonic() + WAIT_S
    while said := problem():
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    folder = Folder(f"dtc{os.getpid()}")
    with running(folder, Plan(size=SMALL, log_level="DEBUG"), []) as graph:
        yield Testbed(folder, graph)


@pytest.fixture
def serving(testbed: Testbed) -> Iterator[Callable[..., Vip]]:
    """Add VIPs, and remove at the end those that are left."""

    def add(number: int, dips: Sequence[IPv4Address], switch: str | None) -> Vip:
        vip = Vip(address=IPv4Address("10.0.1.0") + number, dips=tuple(Dip(address=dip) for dip in dips))
        testbed.controller(lambda c: c.add_vip(vip, switch))
        testbed.await_converged()
        return vip

    async def remove_all(client: ControllerClient) -> None:
        for record in await client.vips():
            await client.remove_vip(record.address)

    yield add
    testbed.controller(remove_all)
    testbed.await_converged()


class Connections:
    """Connections to a VIP that stay open, each asking its DIP who it is, again and again.

    `dips` has each one's DIP when it was opened, `broken` those that ended or had another DIP answer.
    """

    def __init__(self, vip: IPv4Address, count: int) -> None:
        self.vip = vip
        self.count = count
        self.dips: list[str] = []
        self.broken: dict[int, str] = {}
        self.rounds = 0
        self.opened = threading.Event()
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    async def run(self) -> None:
        opened = await asyncio.gather(
            *(asyncio.wait_for(asyncio.open_connection(str(self.vip), 80), ASK_S) for _ in range(self.count)),
            return_exceptions=True,
        )
        streams = [stream for stream in opened if not isinstance(stream, BaseException)]
        refused = [repr(error) for error in opened if isinstance(error, BaseException)]
        assert not refused, f"{len(refused)} of {self.count} are not opened: {refused[0]}"
        try:
            self.dips = list(await asyncio.gather(*(self._ask(*stream) for stream in streams)))
            self.opened.set()
            last = False
            while not last:
                last = self.stop.is_set()  # One more round after the last change.
                await asyncio.gather(*(self._check(n, *stream) for n, stream in enumerate(streams)))
                self.rounds += 1
                await asyncio.sleep(0.05)
        finally:
            for _, writer in streams:
                writer.close()

    async def _check(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number in self.broken:
            return
        try:
            dip = await self._ask(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.broken[number] = f"{type(error).__name__} {error}"
            return
        if dip != self.dips[number]:
            self.broken[number] = f"{dip} answers"

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(f"GET / HTTP/1.1\r\nHost: {self.vip}\r\n\r\n".encode())
        async with asyncio.timeout(ASK_S):
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"\n")
        return body.split(b'"dip": "', 1)[1].split(b'"', 1)[0].decode()


@contextmanager
def connections(testbed: Testbed, client: str, vip: Vip, count: int) -> Iterator[Connections]:
    """Keep connections busy while the block runs; afterwards all have been asked once more."""
    live = Connections(vip.address, count)

    def work() -> None:
        try:
            namespaces.enter(testbed.folder.namespace(client))  # This thread's only; it ends here.
            asyncio.run(live.run())
        except BaseException as error:
            live.failure = error
        finally:
            live.opened.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        live.opened.wait()
        if live.failure is None:
            yield live
    finally:
        live.stop.set()
        thread.join()
    if live.failure is not None:
        raise live.failure
    assert live.rounds > 1


@contextmanager
def pings(testbed: Testbed, client: str, vip: Vip, out: Path) -> Iterator[list[Samples]]:
    """Ping a VIP every 3 ms while the block runs; afterwards the list has the samples."""
    command = [sys.executable, "-m", "mininet_topos.experiments.probe", str(vip.address)]
    ready, write = os.pipe()
    command += ["--out", str(out), "--duration-s", "60", "--ready-fd", str(write)]
    with namespaces.entered(testbed.folder.namespace(client)):
        prober = subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=(write,))
    os.close(write)
    found: list[Samples] = []
    try:
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read(1), "the prober does not start"
        yield found
    finally:
        prober.send_signal(signal.SIGTERM)
        _, said = prober.communicate(timeout=30)
    assert prober.returncode == 0, said.decode()
    found.append(Samples.load(out))


def test_a_migration_is_seen_neither_by_connections_nor_by_pings(
    testbed: Testbed, serving: Callable[..., Vip], tmp_path: Path
) -> None:
    vip = serving(1, DIPS[:4], "agg1")
    moves: list[tuple[float, str]] = []
    with (
        pings(testbed, "outside", vip, tmp_path / "pings.npz") as pinged,
        connections(testbed, "client2", vip, 200) as live,
    ):
        for switch in (None, "tor1", "core2", "agg1"):
            moves.append((time.time(), f"to {switch}"))
            report = testbed.controller(lambda c, to=switch: c.migrate(vip.address, to))  # type: ignore[misc]
            assert not report.failed
        moves.append((time.time(), "done"))
        time.sleep(0.5)  # What a slow reaction would lose is to be seen too.
    assert not live.broken
    assert len(set(live.dips)) == 4, f"200 connections reached {set(live.dips)} only"
    (samples,) = pinged
    outages = samples.outages(0)
    print(f"{int(samples.lost.sum())} of {samples.lost.size} pings lost: {outages}, moves {moves}")
    assert not samples.lost.any()


def test_vips_that_move_in_two_waves_are_timed_and_probed_as_in_the_experiment(
    testbed: Testbed, serving: Callable[..., Vip]
) -> None:
    at: tuple[str | None, ...] = ("tor1", None, "agg1")
    stated = tuple(
        StatedVip(vip=serving(20 + number, DIPS[:2], switch), switch=switch or ON_SMUXES)
        for number, switch in enumerate(at)
    )
    found = Running(testbed.folder, testbed.graph, stated)
    migration.release(found, found.vips)
    samples, (began, report) = migration.move_once(found, [None, "tor1", "agg2"])
    assert set(report.wave_ms) == {Wave.WITHDRAW.value, Wave.ANNOUNCE.value}
    assert min(report.wave_ms.values()) > 0
    assert samples.targets == found.vips
    after = samples.sent[:, 0] > began + sum(report.wave_ms.values()) / 1e3
    assert after.any()
    assert (~samples.lost[after]).any(axis=0).all(), "every VIP answers where it is now"
    testbed.await_converged()


def measured(testbed: Testbed, *vips: tuple[Vip, str | None]) -> Running:
    """Return the testbed as experiments have it."""
    stated = tuple(StatedVip(vip=vip, switch=switch or ON_SMUXES) for vip, switch in vips)
    return Running(testbed.folder, testbed.graph, stated)


def test_a_failure_is_inflicted_and_healed_while_pings_and_connections_go_on_as_in_the_experiment(
    testbed: Testbed, serving: Callable[..., Vip], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as it takes, and however late pings leave: nothing is claimed about time here.
    for name, value in {
        "_WATCHED_S": 0.1,
        "_BEFORE_S": 0.2,
        "_AFTER_S": 0.6,
        "_LATE_S": 0.3,
        "CONNECTIONS": 10,
    }.items():
        monkeypatch.setattr(failures, name, value)
    monkeypatch.setattr(failures, "_stalled", lambda near, seen: False)
    monkeypatch.setattr(failures, "_PROBERS", ("client1", "client2"))
    found = failures.measure(
        measured(testbed, (serving(30, DIPS[:4], "tor2"), "tor2")), 1, lambda line: None, ["host-agent"]
    )
    kind = found.kinds["host-agent"]
    assert len(kind.served_ms) == 1 and len(kind.late) == 2 and found.discarded == {"host-agent": 0}
    assert kind.left == 0, "no DIP is behind the failure of an agent"
    assert {row["client"] for row in found.rows} == {"client1", "client2"}
    assert sum(row["sent"] for row in found.rows) > 0
    testbed.await_converged()


def test_connections_of_every_kind_are_held_through_events_as_in_the_experiment(
    testbed: Testbed, serving: Callable[..., Vip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "_QUIET_S", 0.3)
    # Of these, one on an HMux and one on the SMuxes lose a DIP.
    monkeypatch.setattr(consistency, "_ON_HMUX", 0)
    monkeypatch.setattr(consistency, "_ON_SMUX", 1)
    places = (serving(31, DIPS[:4], "tor1"), "tor1"), (serving(32, DIPS[:4], None), None)
    found, left = consistency.measure(
        measured(testbed, *places), lambda line: None, 60, only=["none", "dip_removal"]
    )
    assert set(found) == {"none", "dip_removal"}
    assert {outcome.kind for outcome in found["none"]} == {"tcp", "udp", "snat"}
    assert len(found["none"]) == len(found["dip_removal"]) > 40
    assert left["dip_removal"] == {DIPS[0]}
    testbed.await_converged()


def test_the_controllers_benchmarks_measure_adding_moving_loading_and_its_restart(
    testbed: Testbed, serving: Callable[..., Vip], monkeypatch: pytest.MonkeyPatch
) -> None:
    vip = serving(33, DIPS[:2], "tor1")
    found = measured(testbed, (vip, "tor1"))
    monkeypatch.setattr(control, "EMPTY", "tor2")
    monkeypatch.setattr(control, "HOME", "tor1")
    monkeypatch.setattr(control, "AWAY", "agg1")
    monkeypatch.setattr(control, "_QUIET_S", 0.05)
    with closing(AgentLogs(testbed.folder, control._switches(found))) as logs:
        (added,) = control._add(found, logs, control._dips(found)[:2], 1)
    waves = testbed.controller(lambda c: control._migrate(c, vip.address, 1))
    assert added > 0 and len(waves) == 2 and min(waves) > 0
    pairs = scale._pairs(found)
    assert testbed.controller(lambda c: scale._load(c, pairs, 20)) > 0
    assert testbed.controller(lambda c: scale._add_singly(c, pairs, 3)) > 0
    assert testbed.controller(lambda c: scale._rate(c, pairs, 2)) > 0
    assert testbed.controller(scale._resync) > 0
    assert testbed.controller(lambda c: scale._restart(c, found)) > 0
    assert scale._peak_mb(found) > 10


def test_a_removed_vip_is_on_no_device(testbed: Testbed, serving: Callable[..., Vip]) -> None:
    vip = serving(2, DIPS[:2], "core1")
    assert not testbed.errors("client1", vip.address)
    testbed.controller(lambda c: c.remove_vip(vip.address))
    assert testbed.differences() == "", "the removal was over before every device had done it"
    with pytest.raises(RefusedError, match=f"there is no VIP {vip.address}"):
        testbed.controller(lambda c: c.vip(vip.address))
    assert len(testbed.errors("client1", vip.address, count=2, timeout_s=1.0)) == 2, "a removed VIP answers"


def test_a_new_dip_breaks_no_connection_and_a_lost_one_only_its_own(
    testbed: Testbed, serving: Callable[..., Vip]
) -> None:
    vip = serving(3, DIPS[:3], "tor1")
    more = vip.model_copy(update={"dips": (*vip.dips, Dip(address=DIPS[3]))})
    with connections(testbed, "client1", vip, 300) as live:
        testbed.controller(lambda c: c.change_vip(more))
    assert not live.broken
    assert str(DIPS[3]) not in live.dips
    gone = str(DIPS[0])
    fewer = more.model_copy(update={"dips": more.dips[1:]})
    with connections(testbed, "client1", more, 300) as live:
        assert set(live.dips) == {str(dip) for dip in DIPS[:4]}, "the new DIP gets no connections"
        testbed.controller(lambda c: c.change_vip(fewer))
    broken_others = {n: why for n, why in live.broken.items() if live.dips[n] != gone}
    assert not broken_others
    assert not testbed.errors("client1", vip.address)


def test_kill_9_of_the_controller_loses_nothing_and_changes_nothing(
    testbed: Testbed, serving: Callable[..., Vip]
) -> None:
    vip = serving(4, DIPS[:3], "agg2")
    before, writes = testbed.controller(lambda c: c.vips()), testbed.writes()
    with connections(testbed, "client2", vip, 50) as live:
        killed = testbed.kill("root", "controller")
        testbed.await_restart("root", "controller", killed)
        testbed.await_controller()
        report = testbed.controller(lambda c: c.resync())
    assert (report.done, report.writes, report.failed) == (0, 0, ())
    assert testbed.controller(lambda c: c.vips()) == before
    assert testbed.writes() == writes, "a resync wrote what was right already"
    assert not live.broken


@pytest.mark.parametrize(
    ("node", "process"), [("agg1", "agent"), ("agg1", "switch"), ("smux1", "smux"), ("server1", "host-agent")]
)
def test_what_changed_while_a_process_was_dead_arrives(
    testbed: Testbed, serving: Callable[..., Vip], node: str, process: str
) -> None:
    vip = serving(5, DIPS[:2], "agg1")
    killed = testbed.kill(node, process)
    more = vip.model_copy(update={"dips": tuple(Dip(address=dip) for dip in DIPS[:4])})
    testbed.controller(lambda c: c.change_vip(more))
    testbed.await_restart(node, process, killed)
    testbed.await_converged()
    held = testbed.controller(lambda c: c.vip(vip.address))
    assert {dip.address for dip in held.spec.dips} == set(DIPS[:4])
    await_that(lambda: "; ".join(testbed.errors("client2", vip.address)))


def test_the_smuxes_take_over_while_the_controller_is_stopped(
    testbed: Testbed, serving: Callable[..., Vip]
) -> None:
    vip = serving(6, DIPS[:3], "core2")
    controller = testbed.process("root", "controller").pid
    assert controller is not None
    with connections(testbed, "client2", vip, 100) as live:
        os.kill(controller, signal.SIGSTOP)
        try:
            ask(testbed.folder, Request(do="fail", what="core2"))
            errors = testbed.errors("client1", vip.address)
        finally:
            os.kill(controller, signal.SIGCONT)
            ask(testbed.folder, Request(do="restore", what="core2"))
    assert not errors
    assert not live.broken
    testbed.await_converged()
