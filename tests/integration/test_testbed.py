"""A smaller FatTree, alive: what the testbed promises its user, checked with real traffic."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import networkx as nx
import pytest

from controller.monitoring.flows import Wanted
from controller.records import VipRecord
from duet_p4.api.flows import FlowRecord
from duet_p4.confinement import Capability
from duet_p4.flow_hash import Flow, flow_hash
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.attacks.run import run as run_attacks
from mininet_topos.experiments.probe import Samples
from mininet_topos.fattree import FatTree
from mininet_topos.testbed import agents, checks, lifecycle, namespaces, probe, tracing, vipfile
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.operation import running
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.probe import Exchange
from mininet_topos.testbed.protocol import Request, ask
from mininet_topos.testbed.supervisor import State

pytestmark = [
    pytest.mark.root,
    pytest.mark.testbed,
    pytest.mark.skipif(os.geteuid() != 0, reason="a testbed needs root"),
]

SMALL = FatTree(containers=1, tors=2, aggs=2, cores=2, servers=3, dip_servers=6, smux_tors=(1, 2))
VIPS = """
vips:
  - {address: 10.0.0.1, name: plain, switch: tor1, dips: [100.1.1.17, 100.1.2.17, 100.1.2.33]}
  - address: 10.0.0.2
    name: ports
    switch: agg1
    dips: [100.1.1.33]
    ports:
      - {protocol: tcp, port: 80, dips: [100.1.1.33, 100.1.2.33]}
      - {protocol: tcp, port: 21, dips: [100.1.1.49, 100.1.2.49]}
  - address: 10.0.0.3
    name: weighted
    switch: core1
    dips: [{address: 100.1.1.49, weight: 3}, 100.1.2.49]
  - {address: 10.0.0.4, name: software, switch: smux, dips: [100.1.1.18, 100.1.2.18]}
  - {address: 10.0.0.5, name: checked, switch: agg2, dips: [100.1.1.19, 100.1.2.19],
     health: {kind: http, port: 80, path: /health, interval_ms: 200, timeout_ms: 500}}
"""
PLAIN, PORTS, WEIGHTED, SOFTWARE, CHECKED = (IPv4Address("10.0.0.0") + n for n in range(1, 6))
DIP = IPv4Address("100.1.2.17")
"""One of the plain VIP's."""

QUICK_ATTACKS = (
    *("stolen-server-to-switch", "stolen-server-to-smux", "stolen-server-to-server", "stolen-smux-to-switch"),
    *("stolen-server-to-controller", "stolen-switch-to-controller", "reader-writes", "old-term"),
    *("health-as-another-server", "health-of-another-server", "health-as-smux", "ports-by-server"),
    *("ports-of-another-switch", "read-flows", "read-metrics", "plain-http", "no-certificate"),
    *("forged-certificate", "old-tls", "man-in-the-middle", "big-body", "endless-body", "deep-json"),
    *("p4runtime-theft", "controller-socket", "names", "smux-hijacks-vip", "outside-hijacks-rack"),
    *("tor-hijacks-rack", "tor-forges-path", "bgp-without-password", "bgp-ttl", "tunnel-from-server"),
    *("tunnel-from-outside", "tunnel-through-fabric", "tip-laundering", "source-of-another-rack"),
    *("source-of-ours-from-outside", "foreign-frame", "bad-quote", "hash-aiming", "cpu-flood-ping"),
)
NAME = f"dt{os.getpid()}"
START_S = 60.0


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(NAME)
    graph = fattree.fattree(SMALL)
    stated = vipfile.parse(VIPS, graph)
    with running(folder, Plan(size=SMALL).serving(stated), stated):
        yield folder


@pytest.fixture(scope="module")
def graph() -> nx.Graph:
    return fattree.fattree(SMALL)


@pytest.fixture
def healthy(testbed: Folder, graph: nx.Graph) -> Iterator[Folder]:
    """A testbed in which all is well before the test, and after it again."""
    yield testbed
    if ask(testbed, Request(do="status")).failed:
        ask(testbed, Request(do="restore"))
    await_verdict(testbed, graph)


def await_verdict(folder: Folder, graph: nx.Graph, timeout_s: float = 30.0) -> None:
    """Wait until every session is up and every VIP answers from everywhere."""
    deadline = time.monotonic() + timeout_s
    while True:
        verdicts = verdict(folder, graph)
        wrong = [check for check in verdicts if not check.ok]
        if not wrong:
            return
        assert time.monotonic() < deadline, "\n".join(f"{check.name}: {check.detail}" for check in wrong)
        time.sleep(0.2)


def verdict(folder: Folder, graph: nx.Graph) -> list[checks.Check]:
    return checks.run(folder, graph, ask(folder, Request(do="status")))


def client(graph: nx.Graph, name: str) -> fattree.Node:
    node: fattree.Node = graph.nodes[name]["node"]
    return node


def from_client(folder: Folder, graph: nx.Graph, name: str, count: int, vip: IPv4Address) -> list[Exchange]:
    """Open `count` HTTP connections to a VIP at once."""
    source = client(graph, name).address

    async def burst() -> list[Exchange]:
        return list(await asyncio.gather(*(probe.http(source, vip, 80, 10) for _ in range(count))))

    return probe.run_in({name: (folder.namespace(name), burst)})[name]


@contextmanager
def pings(folder: Folder, name: str, out: Path, vips: Sequence[IPv4Address]) -> Iterator[list[Samples]]:
    """Ping VIPs every 3 ms while the block runs; afterwards the list has the samples."""
    command = ["nsenter", f"--net={folder.namespace(name)}", sys.executable]
    command += ["-m", "mininet_topos.experiments.probe", "--out", str(out), "--duration-s", "60"]
    ready, write = os.pipe()
    command += ["--ready-fd", str(write), *map(str, vips)]
    prober = subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=(write,))
    os.close(write)
    found: list[Samples] = []
    try:
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read(1), "the prober does not begin"
        time.sleep(0.3)  # Some rounds of peace before.
        yield found
    finally:
        prober.send_signal(signal.SIGTERM)
        _, said = prober.communicate(timeout=30)
    assert prober.returncode == 0, said.decode()
    found.append(Samples.load(out))


def outage_ms(samples: Samples, vip: IPv4Address) -> float:
    """Return the longest outage of a VIP in ms, 0 if nothing was lost."""
    return 1000 * max((seconds for _, seconds in samples.outages(samples.targets.index(vip))), default=0.0)


def with_controller(folder: Folder, work: Callable[[agents.ControllerClient], object]) -> None:
    async def run() -> None:
        async with agents.controller(folder) as controller:
            await work(controller)  # type: ignore[misc]

    asyncio.run(run())


def vip_record(folder: Folder, address: IPv4Address) -> VipRecord:
    async def ask_controller() -> VipRecord:
        async with agents.controller(folder) as controller:
            return await controller.vip(address)

    return asyncio.run(ask_controller())


def duet(folder: Folder, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mininet_topos.cli", "testbed", *words],
        env=os.environ | {"DUET_TESTBED": folder.name},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_check_passes(testbed: Folder, graph: nx.Graph) -> None:
    wrong = [f"{check.name}: {check.detail}" for check in verdict(testbed, graph) if not check.ok]
    assert not wrong, "\n".join(wrong)


def test_dips_that_are_left_out_show(healthy: Folder, graph: nx.Graph) -> None:
    server = next(node for node in fattree.nodes(graph, Kind.SERVER) if node.prefix and DIP in node.prefix)
    ask(healthy, Request(do="fail", what=server.name))
    deadline = time.monotonic() + 30
    while True:
        (wanted,) = (check for check in verdict(healthy, graph) if check.name == "wanted")
        if f"leaves its DIP {DIP} out" in wanted.detail:
            break
        assert time.monotonic() < deadline, f"{server.name} has failed, but: {wanted.detail}"
        time.sleep(0.2)
    assert not wanted.ok


def test_a_thousand_connections_at_once_are_all_answered(testbed: Folder, graph: nx.Graph) -> None:
    exchanges = from_client(testbed, graph, "outside", 1000, PLAIN)
    errors = [exchange.error for exchange in exchanges if exchange.error]
    assert not errors, f"{len(errors)} of 1000 failed: {errors[:3]}"


@pytest.mark.parametrize("name", ["client1", "client2", "outside"])
def test_a_full_size_packet_arrives(testbed: Folder, graph: nx.Graph, name: str) -> None:
    source = client(graph, name).address
    sized = {name: (testbed.namespace(name), partial(probe.ping, source, PLAIN, 2.0, 1472))}
    assert probe.run_in(sized)[name].error is None, "1500 bytes with DF set did not come back"


def test_a_flow_has_the_same_dip_on_hmux_and_smux(healthy: Folder, graph: nx.Graph) -> None:
    source = client(graph, "outside").address

    async def ask_from(ports: Sequence[int]) -> list[Exchange]:
        return list(await asyncio.gather(*(probe.http(source, PLAIN, 80, 5, port) for port in ports)))

    def by_port() -> dict[int, IPv4Address | None]:
        job = (healthy.namespace("outside"), partial(ask_from, range(20_000, 20_200)))
        found = probe.run_in({0: job})[0]
        wrong = [(exchange.flow.source_port, exchange.error) for exchange in found if exchange.error]
        assert not wrong, f"{len(wrong)} of {len(found)} failed: {wrong[:5]}"
        return {exchange.flow.source_port: exchange.dip for exchange in found}

    on_hmux = by_port()
    with_controller(healthy, lambda controller: controller.migrate(PLAIN, None))
    try:
        assert by_port() == on_hmux
    finally:
        with_controller(healthy, lambda controller: controller.migrate(PLAIN, "tor1"))


def test_a_trace_shows_what_every_node_did_with_the_packet_there_and_back(testbed: Folder) -> None:
    journey = asyncio.run(tracing.trace(testbed, "client1", SOFTWARE, 80, "tcp"))
    assert not journey.untraced and not journey.lost_records
    syn = journey.packets[0]
    shown = [(hop.node, hop.trace.verdict if hop.trace else hop.note) for hop in syn.hops]
    assert [hop.node for hop in syn.hops if hop.trace is None] == ["client1"], shown
    (smux,) = [hop.trace for hop in syn.hops if hop.trace and hop.trace.kind == "smux"]
    server = syn.hops[-1].trace
    assert server is not None and (server.kind, server.verdict) == ("server", "passed"), shown
    slot = next(step for step in smux.steps if step.name == "slots")
    dip = str(IPv4Address(int({v.name: v.value for v in slot.arguments}["dip"], 16)))
    assert f"answered by DIP {dip}" in journey.answer
    service = next(step for step in smux.steps if step.name == "services")
    assert service.installed is not None and str(service.installed.by).startswith("controller ")
    routed = [
        step for hop in syn.hops if hop.trace and hop.trace.kind == "switch" for step in hop.trace.steps
    ]
    assert any(step.installed and step.installed.at and "BIRD" in str(step.installed.by) for step in routed)
    answer = next(packet for packet in journey.packets if packet.back)
    first = answer.hops[0].trace
    assert first is not None and (first.device, first.verdict) == (server.device, "sent")
    assert "out_reply" in first.steps[-1].counters and answer.hops[-1].node == "client1"


def test_flow_records_of_muxes_and_servers_agree_on_who_has_a_flow(testbed: Folder, graph: nx.Graph) -> None:
    began = time.time() - 0.05  # the data path's clock ticks every few milliseconds
    answers = from_client(testbed, graph, "client1", 150, SOFTWARE)
    answers += from_client(testbed, graph, "client1", 150, PLAIN)
    assert all(exchange.error is None for exchange in answers)

    async def records() -> list[FlowRecord]:
        async with agents.controller(testbed) as controller:
            seen = await controller.flow_records(Wanted(source=client(graph, "client1").address), 10_000)
            assert not seen.unreachable
            return [record for record in seen.records if record.first >= began]

    deadline = time.monotonic() + 10
    while True:
        found = asyncio.run(records())
        kinds = {(record.kind, record.destination) for record in found}
        if kinds >= {("smux", SOFTWARE), ("switch", PLAIN), ("server", SOFTWARE), ("server", PLAIN)}:
            break
        assert time.monotonic() < deadline, kinds
        time.sleep(0.1)
    ends: dict[tuple[IPv4Address, int], set[IPv4Address]] = {}
    for record in found:
        assert record.packets % record.sampling == 0 and record.bytes >= 54 * record.packets
        ends.setdefault((record.destination, record.source_port), set()).add(record.dip)
    assert all(len(dips) == 1 for dips in ends.values()), ends


def test_every_process_has_the_rights_it_needs_and_no_others(testbed: Folder) -> None:
    processes = ask(testbed, Request(do="status")).processes
    at_most = {
        "switch": {"NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "SYS_ADMIN"}
        | {"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID", "SETPCAP"},
        "agent": {"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "BPF", "PERFMON"},
        "smux": {"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "BPF", "PERFMON"},
        "host-agent": {"NET_ADMIN", "NET_RAW", "BPF", "PERFMON"},
        "bird": {"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"},
        "dip-server": {"NET_BIND_SERVICE"},
        "controller": set(),
    }
    looked_at = set()
    for process in processes:
        if process.name not in at_most:
            continue
        status = status_of(process.pid)
        wanted = sum(1 << Capability[name] for name in at_most[process.name])
        more = {
            word: status[word] for word in ("CapEff", "CapPrm", "CapBnd") if int(status[word], 16) & ~wanted
        }
        assert not more, f"{process.node}/{process.name} may do more: {more}, not only {wanted:x}"
        assert status["NoNewPrivs"] == "1"
        looked_at.add(process.name)
    assert {"switch", "agent", "smux", "host-agent", "dip-server", "controller"} <= looked_at
    birds = [pid for name in ("tor1", "smux1") for pid in namespaces.processes([testbed.namespace(name)])]
    birds = [pid for pid in birds if Path(f"/proc/{pid}/comm").read_text() == "bird\n"]
    assert len(birds) == 2
    for pid in birds:
        status = status_of(pid)
        assert (int(status["CapBnd"], 16) >> Capability.SYS_ADMIN) & 1 == 0
        assert status["NoNewPrivs"] == "1"


def status_of(pid: int | None) -> dict[str, str]:
    """Return what the kernel says of a process: `/proc/PID/status`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_no_attack_succeeds(healthy: Folder, graph: nx.Graph) -> None:
    """Those that take well under a second, one for each defence; `duet experiment attacks` has them all."""
    found = run_attacks(healthy, graph, print, small=True, only=QUICK_ATTACKS)
    assert len(found) == len(QUICK_ATTACKS)
    wrong = [f"{one.attack.name}: {one.seen}" for one in found if one.succeeded or one.failed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("what", "hurt"),
    [
        ("agg1", [PORTS]),
        ("core1", [WEIGHTED]),
        ("agg2", [CHECKED]),
        ("smux1", []),
        ("tor1-agg1", []),
    ],
)
def test_a_failure_hurts_its_own_vips_only_and_shortly(
    healthy: Folder, graph: nx.Graph, tmp_path: Path, what: str, hurt: list[IPv4Address]
) -> None:
    with pings(
        healthy, "client2", tmp_path / "pings.npz", [PLAIN, PORTS, WEIGHTED, SOFTWARE, CHECKED]
    ) as found:
        ask(healthy, Request(do="fail", what=what))
        time.sleep(1.0)  # What a slow reaction would lose is to be seen too.
    (samples,) = found
    outages = {str(vip): outage_ms(samples, vip) for vip in samples.targets}
    print(f"{what} fails; longest outage per VIP in ms: {outages}")
    assert not any(samples.lost[-50:].any(axis=0)), f"VIPs that never came back: {outages}"
    for vip in hurt:
        assert outages[str(vip)] < 100, f"{vip} was on {what}: {outages}"


def test_a_long_download_survives_fallback_migration_and_dip_removal(
    healthy: Folder, graph: nx.Graph
) -> None:
    source, port = client(graph, "client2").address, 21_000
    before = vip_record(healthy, PLAIN)
    assert before.layout.group
    key = Plan.load(healthy).flow_key
    serving = before.layout.group.member(flow_hash(Flow(source, PLAIN, 6, port, 80), key)).address
    removed = next(dip.address for dip in before.spec.dips if dip.address != serving)
    fewer = tuple(dip for dip in before.spec.dips if dip.address != removed)
    flow = ["nsenter", f"--net={healthy.namespace('client2')}", "curl", "-sS", "--limit-rate", "10M"]
    flow += ["--local-port", str(port), "-o", "/dev/null", "-w", "%{size_download} %{http_code}"]
    download = subprocess.Popen(
        [*flow, f"http://{PLAIN}/bytes/80000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        with_controller(healthy, lambda controller: controller.migrate(PLAIN, None))
        with_controller(healthy, lambda controller: controller.migrate(PLAIN, "core2"))
        changed = before.spec.model_copy(update={"dips": fewer})
        with_controller(healthy, lambda controller: controller.change_vip(changed))
        assert download.poll() is None, "the download ended before a DIP was removed"
        answers = {exchange.dip for exchange in from_client(healthy, graph, "client2", 60, PLAIN)}
        assert answers == {dip.address for dip in fewer}, f"{removed} was removed"
        with_controller(healthy, lambda controller: controller.migrate(PLAIN, "tor1"))
        output, said = download.communicate(timeout=60)
    finally:
        download.kill()
        with_controller(healthy, lambda controller: controller.change_vip(before.spec))
        with_controller(healthy, lambda controller: controller.migrate(PLAIN, "tor1"))
    assert output.split() == ["80000000", "200"], said


class TestCommands:
    def test_status_is_json_for_programs(self, testbed: Folder) -> None:
        shown = json.loads(duet(testbed, "status", "--json").stdout.splitlines()[-1])
        assert set(shown) == {"muxes", "vips", "processes", "crashes", "failed"}
        assert {row["address"]: row["hmux"] for row in shown["vips"]} == {
            str(PLAIN): "tor1",
            str(PORTS): "agg1",
            str(WEIGHTED): "core1",
            str(SOFTWARE): None,
            str(CHECKED): "agg2",
        }

    def test_status_is_a_table_for_people(self, testbed: Folder) -> None:
        shown = duet(testbed, "status").stdout
        assert "tor1" in shown
        assert str(PLAIN) in shown

    def test_check_says_what_it_checked(self, testbed: Folder) -> None:
        result = duet(testbed, "check", "--json")
        shown = json.loads(result.stdout.splitlines()[-1])
        failed = [check for check in shown["checks"] if not check["ok"]]
        assert (result.returncode, shown["ok"]) == (0, True), failed
        assert {"name", "ok", "detail"} == set(shown["checks"][0])
        assert shown["seconds"] > 0

    def test_check_counts_what_a_cut_off_client_cannot_send_as_failed(self, healthy: Folder) -> None:
        ask(healthy, Request(do="fail", what="client1"))
        result = duet(healthy, "check", "--json")
        assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
        shown = json.loads(result.stdout)
        failed = {check["name"]: check["detail"] for check in shown["checks"] if not check["ok"]}
        assert set(failed) == {f"vip {PLAIN + n} answers" for n in range(5)}, failed
        assert "Network is unreachable" in failed[f"vip {PLAIN} answers"]

    def test_check_tests_every_vip_without_smuxes(self, healthy: Folder, graph: nx.Graph) -> None:
        for smux in fattree.nodes(graph, Kind.SMUX):
            ask(healthy, Request(do="fail", what=smux.name))
        checks = {check.name: check for check in verdict(healthy, graph)}
        answers = {vip: checks[f"vip {vip} answers"] for vip in (PLAIN, PORTS, WEIGHTED, SOFTWARE, CHECKED)}
        wrong = [check.detail for vip, check in answers.items() if check.ok != (vip != SOFTWARE)]
        assert not wrong

    def test_exec_runs_in_the_node_and_returns_its_code(self, testbed: Folder) -> None:
        shown = duet(testbed, "exec", "client1", "--", "curl", "-sS", f"http://{PLAIN}/")
        assert json.loads(shown.stdout)["dip"] in ("100.1.1.17", "100.1.2.17", "100.1.2.33"), shown.stderr
        assert duet(testbed, "exec", "client1", "false").returncode == 1

    def test_logs_has_every_process_of_the_node(self, testbed: Folder) -> None:
        shown = duet(testbed, "logs", "tor1").stdout
        assert "tor1.agent.log" in shown
        assert "tor1.switch.log" in shown

    def test_capture_shows_the_encapsulated_packet_until_ctrl_c(
        self, testbed: Folder, graph: nx.Graph
    ) -> None:
        capture = subprocess.Popen(
            [sys.executable, "-m", "mininet_topos.cli", "testbed", "capture", "server1", "eth1"],
            env=os.environ | {"DUET_TESTBED": testbed.name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        shown: list[str] = []
        reader = threading.Thread(target=lambda: shown.extend(capture.stdout or ()))
        reader.start()
        try:
            deadline = time.monotonic() + 30
            # Health checks come by tunnels as well: they are not what is looked for.
            while not any(f"> {PLAIN}" in line and "IP 172.30.0." in line for line in shown):
                assert time.monotonic() < deadline, "".join(shown)
                from_client(testbed, graph, "client2", 8, PLAIN)
            os.killpg(capture.pid, signal.SIGINT)  # as a terminal does
            code = capture.wait(30)
        finally:
            capture.kill()
            reader.join()
        assert capture.stderr is not None
        said = capture.stderr.read()
        assert code == 0, said
        assert re.search(r"^\d+ packets$", said, re.MULTILINE), said
        assert not re.search("error|interrupted|traceback", said, re.IGNORECASE), said

    @pytest.mark.parametrize("command", ["fail", "exec", "logs", "capture"])
    def test_a_node_that_is_not_there_is_named(self, testbed: Folder, command: str) -> None:
        more = {"exec": ["true"], "capture": ["eth1"]}.get(command, [])
        result = duet(testbed, command, "tor9", *more)
        assert result.returncode == 1
        assert "'tor9'" in result.stderr

    def test_the_name_is_taken(self, testbed: Folder) -> None:
        result = duet(testbed, "up")
        assert result.returncode == 1
        assert f"there is a testbed named '{testbed.name}' already" in result.stderr

    def test_a_wrong_vip_file_changes_nothing(self, testbed: Folder, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text("vips:\n  - address: 10.0.0.1\n    dips: [nowhere]\n")
        result = duet(Folder(f"{NAME}-other"), "up", "--vips", str(wrong))
        assert result.returncode == 1
        assert "wrong.yaml, line 3" in result.stderr
        assert not Folder(f"{NAME}-other").path.exists()


def test_a_crash_is_seen_and_healed(healthy: Folder, graph: nx.Graph) -> None:
    before = ask(healthy, Request(do="status"))
    victim = next(p for p in before.processes if (p.node, p.name) == ("tor2", "agent"))
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + START_S
    while True:
        now = ask(healthy, Request(do="status"))
        again = next(p for p in now.processes if (p.node, p.name) == ("tor2", "agent"))
        if again.state is State.RUNNING and again.pid != victim.pid:
            break
        assert time.monotonic() < deadline, again
        time.sleep(0.05)
    crash = now.crashes[-1]
    assert (crash.node, crash.process, crash.exit) == ("tor2", "agent", "killed by SIGKILL")
    assert "duet testbed logs tor2" in crash.text()
    await_verdict(healthy, graph)
    (processes,) = (check for check in verdict(healthy, graph) if check.name == "processes")
    assert "tor2/agent was started again once, the last end: killed by SIGKILL" in processes.detail


def test_what_does_not_exist_cannot_fail_or_be_restored(testbed: Folder) -> None:
    with pytest.raises(TestbedError, match="there is no node or link 'tor1-core1'"):
        ask(testbed, Request(do="fail", what="tor1-core1"))
    with pytest.raises(TestbedError, match="agg1 has not failed"):
        ask(testbed, Request(do="restore", what="agg1"))


def test_down_after_kill_9_of_the_launcher_leaves_nothing() -> None:
    folder = Folder(f"{NAME}-killed")
    size = FatTree(containers=1, tors=1, aggs=1, cores=1, servers=1, dip_servers=1, smux_tors=(1,))
    lifecycle.launch(folder, Plan(size=size), lambda _: None)
    try:
        bound = folder.bound()
        inodes = {path.stat().st_ino for path in bound}
        (launcher,) = [
            pid
            for pid in namespaces.processes([folder.root])
            if b"mininet_topos.testbed.launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and os.getsid(pid) == pid
            and Path(f"/proc/{pid}/comm").read_text().startswith("python")
        ]
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(TestbedError, match=r"does not answer|no testbed"):
            while True:
                ask(folder, Request(do="status"))
    finally:
        started = time.monotonic()
        assert lifecycle.down(folder)
        seconds = time.monotonic() - started
    assert seconds < 5
    assert not folder.path.exists()
    left = [entry.name for entry in Path("/proc").iterdir() if _namespace_of(entry) in inodes]
    assert not left, f"processes {left} are left"


def _namespace_of(process: Path) -> int | None:
    try:
        return (process / "ns/net").stat().st_ino
    except OSError:
        return None


def test_two_testbeds_are_up_at_once(testbed: Folder, graph: nx.Graph) -> None:
    size = FatTree(containers=1, tors=1, aggs=1, cores=1, servers=1, dip_servers=1, smux_tors=(1,))
    stated = vipfile.parse(
        "vips: [{address: 10.0.0.1, switch: core1, dips: [100.1.1.17]}]", fattree.fattree(size)
    )
    other = Folder(f"{NAME}-two")
    with running(other, Plan(size=size, controllers=0), stated) as theirs:
        wrong = [f"{check.name}: {check.detail}" for check in verdict(other, theirs) if not check.ok]
        assert not wrong, "\n".join(wrong)
        (answer,) = from_client(testbed, graph, "client2", 1, SOFTWARE)
        assert answer.error is None
    assert not other.path.exists()
    (answer,) = from_client(testbed, graph, "client2", 1, SOFTWARE)
    assert answer.error is None, "the end of another testbed hurt this one"
