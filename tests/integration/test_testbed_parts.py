"""What a testbed is made of: its namespaces, its processes, its wiring, its captures."""

from __future__ import annotations

import io
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4r, p4r_grpc

from duet_p4 import bmv2
from duet_p4.confinement import Capability, Rights, landlock_version
from duet_p4.hmux import pipeline
from mininet_topos import fattree
from mininet_topos.fattree import FatTree
from mininet_topos.testbed import capture, lifecycle, namespaces, rights, wiring
from mininet_topos.testbed.folder import ROOT, Folder, TestbedError
from mininet_topos.testbed.network import NamespaceNode, Network
from mininet_topos.testbed.supervisor import Crash, Process, State, Supervisor

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

SMALL = FatTree(containers=1, tors=1, aggs=1, cores=1, servers=2, dip_servers=2, smux_tors=(1,))


@pytest.fixture
def folder() -> Iterator[Folder]:
    own = Folder(f"dt{os.getpid()}-parts")
    own.create()
    try:
        yield own
    finally:
        lifecycle.down(own)


@pytest.fixture
def namespace(folder: Folder) -> Path:
    namespaces.create(folder.root)
    return folder.root


def inside(path: Path, *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["nsenter", f"--net={path}", "--", *command])
    wait_for(lambda: process.pid in namespaces.processes([path]))
    return process


def wait_for(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.01)


class TestNamespaces:
    def test_the_caller_stays_where_it_is(self, namespace: Path) -> None:
        before = Path("/proc/self/ns/net").stat().st_ino
        with namespaces.entered(namespace):
            assert Path("/proc/self/ns/net").stat().st_ino == namespace.stat().st_ino != before
        assert Path("/proc/self/ns/net").stat().st_ino == before

    def test_killing_ends_what_is_inside_and_nothing_else(self, namespace: Path) -> None:
        inner = inside(namespace, "sleep", "60")
        outer = subprocess.Popen(["sleep", "60"])
        try:
            assert namespaces.kill([namespace], timeout_s=5) == []
            assert inner.wait(timeout=5) == -signal.SIGKILL
            assert outer.poll() is None, "a process outside of the namespace was ended too"
        finally:
            outer.kill()
            outer.wait()

    def test_down_finds_everything_by_the_folder_alone(self, folder: Folder, namespace: Path) -> None:
        inner = inside(namespace, "sleep", "60")
        assert lifecycle.down(Folder(folder.name))
        assert inner.wait(timeout=5) == -signal.SIGKILL
        assert not folder.path.exists()
        assert not [line for line in Path("/proc/mounts").read_text().splitlines() if folder.name in line]

    def test_a_name_is_given_once(self, folder: Folder) -> None:
        with pytest.raises(TestbedError, match=f"there is a testbed named '{folder.name}' already"):
            folder.create()

    @pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "Upper", "x" * 33])
    def test_a_name_that_is_no_file_name_is_refused(self, name: str) -> None:
        with pytest.raises(TestbedError, match="is no name for a testbed"):
            Folder(name)

    def test_no_testbed_is_nothing_to_take_down(self) -> None:
        assert not lifecycle.down(Folder(f"dt{os.getpid()}-gone"))


def sleeper(arguments: Sequence[str]) -> int:
    """A process that does as it is told."""
    os.write(1, f"I am {arguments[0]}\n".encode())  # Not print: pytest has put its own stdout in place.
    if arguments[0] == "told":
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"news")
        except BrokenPipeError:
            return 4
    if arguments[0] == "failing":
        return 3
    signal.pause()
    return 0


def confined(arguments: Sequence[str]) -> int:
    """Say what can still be done."""
    outside, inside = map(Path, arguments)
    with suppress(PermissionError):
        outside.write_text("written")
        os.write(1, b"wrote outside\n")
    inside.write_text("written")
    with suppress(PermissionError):
        os.chown(inside, 1, 1)
        os.write(1, b"changed the owner\n")
    subprocess.run(["grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/self/status"], check=True)
    os.write(1, b"the end\n")
    signal.pause()
    return 0


def test_a_process_has_its_rights_and_no_others(folder: Folder, namespace: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "state"
    process = Process(
        node="root",
        name="one",
        function=f"{__name__}:confined",
        arguments=(str(outside), str(inside / "file")),
        rights=Rights(capabilities=(Capability.NET_ADMIN,), inherited=True, writable=(inside,)),
        namespace=folder.root,
        log=folder.log("root", "one"),
    )
    supervisor = Supervisor([process], list)
    supervisor.start()
    try:
        wait_for(lambda: process.log.exists() and process.log.read_text().endswith("the end\n"))
    finally:
        supervisor.stop("root")
        supervisor.sweep("root", 5)
    assert (inside / "file").read_text() == "written"
    lines = process.log.read_text().splitlines()
    assert lines == ["CapEff:\t0000000000001000", "NoNewPrivs:\t1", "the end"] or not landlock_version()
    assert not outside.exists() or not landlock_version()
    assert "changed the owner" not in lines


@pytest.mark.skipif(not bmv2.is_installed(), reason=bmv2.MISSING)
def test_a_bmv2_with_its_rights_takes_a_program(folder: Folder, namespace: Path) -> None:
    address = f"unix:{folder.sockets}/bmv2.sock"
    process = Process(
        node="root",
        name="switch",
        arguments=("simple_switch_grpc", "--no-p4", "--device-id", "1", "--", "--grpc-server-addr", address),
        rights=rights.bmv2(folder, "root"),
        namespace=namespace,
        log=folder.log("root", "switch"),
    )
    supervisor = Supervisor([process], list)
    supervisor.start()
    requests: queue.SimpleQueue[p4r.StreamMessageRequest | None] = queue.SimpleQueue()
    try:
        with grpc.insecure_channel(address, [("grpc.max_metadata_size", 1 << 20)]) as channel:
            stub = p4r_grpc.P4RuntimeStub(channel)
            claim = p4r.StreamMessageRequest()
            claim.arbitration.device_id = claim.arbitration.election_id.low = 1
            requests.put(claim)
            answers = stub.StreamChannel(iter(requests.get, None), wait_for_ready=True, timeout=20)
            next(answers)
            push = p4r.SetForwardingPipelineConfigRequest(device_id=1, action="VERIFY_AND_COMMIT")
            push.election_id.low = 1
            push.config.CopyFrom(pipeline.schema().get_pipeline_config())
            stub.SetForwardingPipelineConfig(push, timeout=20)
    finally:
        requests.put(None)
        supervisor.stop("root")
        supervisor.sweep("root", 5)


class TestSupervisor:
    def processes(self, folder: Folder, *names: str) -> list[Process]:
        return [
            Process(
                node="root",
                name=name,
                function=f"{__name__}:sleeper",
                arguments=(name,),
                rights=Rights(),
                namespace=folder.root,
                log=folder.log("root", name),
            )
            for name in names
        ]

    def await_crash(self, supervisor: Supervisor) -> Crash:
        poll = select.poll()
        for descriptor in supervisor.descriptors():
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(5000)
        assert ready, "no process ended"
        crash = supervisor.reap(ready[0][0])
        assert crash is not None
        return crash

    def test_a_process_runs_in_its_namespace_and_logs_to_its_file(
        self, folder: Folder, namespace: Path
    ) -> None:
        supervisor = Supervisor(self.processes(folder, "one"), list)
        supervisor.start()
        (status,) = supervisor.statuses()
        assert status.state is State.RUNNING
        wait_for(lambda: status.log.exists() and status.log.read_text() == "I am one\n")
        assert namespaces.processes([namespace]) == [status.pid]
        supervisor.stop("root")
        supervisor.sweep("root", 5)
        assert supervisor.statuses()[0].state is State.STOPPED

    def test_a_crash_is_said_with_the_end_of_the_log_and_healed(
        self, folder: Folder, namespace: Path
    ) -> None:
        supervisor = Supervisor(self.processes(folder, "one"), list)
        supervisor.start()
        first = supervisor.statuses()[0]
        wait_for(lambda: first.log.exists() and bool(first.log.read_text()))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        crash = self.await_crash(supervisor)
        assert "root/one ended by itself (killed by SIGKILL)" in crash.text()
        assert "I am one" in crash.text()
        assert "duet testbed logs root" in crash.text()
        assert supervisor.statuses()[0].state is State.CRASHED
        wait_for(lambda: supervisor.tick() is None)
        again = supervisor.statuses()[0]
        assert (again.state, again.restarts) == (State.RUNNING, 1)
        assert again.pid != first.pid

    def test_one_that_fails_again_and_again_is_started_more_slowly(
        self, folder: Folder, namespace: Path
    ) -> None:
        supervisor = Supervisor(self.processes(folder, "failing"), list)
        supervisor.start()
        waits = []
        for _ in range(2):
            assert self.await_crash(supervisor).exit == "exit code 3"
            waits.append(supervisor.tick() or 0.0)
            wait_for(lambda: supervisor.tick() is None)
        assert waits[1] > 1.5 * waits[0]

    def test_a_peer_that_hangs_up_does_not_end_a_process(self, folder: Folder, namespace: Path) -> None:
        supervisor = Supervisor(self.processes(folder, "told"), list)
        supervisor.start()
        assert self.await_crash(supervisor).exit == "exit code 4"

    def test_what_a_process_started_ends_with_its_node(self, folder: Folder, namespace: Path) -> None:
        supervisor = Supervisor(self.processes(folder, "one"), list)
        supervisor.start()
        orphan = inside(namespace, "sleep", "60")
        supervisor.stop("root")
        supervisor.sweep("root", 5)
        assert orphan.wait(timeout=5) == -signal.SIGKILL
        assert namespaces.processes([namespace]) == []


class TestWiring:
    @pytest.fixture
    def network(self, folder: Folder, namespace: Path) -> Iterator[Network]:
        wiring.prepare_root(namespace, 1)
        graph = fattree.fattree(SMALL)
        wiring.build(folder, graph)
        network = Network(graph, folder)
        yield network
        network.close()

    def test_ports_are_named_addressed_and_sized_as_the_fattree_says(self, network: Network) -> None:
        for link in fattree.links(network.graph):
            for port in link.ends:
                shown = network[port.node].cmd(f"ip -br link show {port.name}")
                assert port.mac in shown, f"{port} is shown as {shown!r}"
                assert str(port.mtu) in network[port.node].cmd(f"cat /proc/net/dev; ip link show {port.name}")

    def test_hosts_have_their_block_and_a_way_out(self, network: Network) -> None:
        routes = network["server1"].cmd("ip route; ip route show table local")
        assert "default via 172.31." in routes
        assert "src 100.1.1.17" in routes
        assert "mtu 1500" in routes
        assert "local 100.1.1.16/28" in routes

    def test_agents_reach_the_controllers_address_and_nothing_else_does(self, network: Network) -> None:
        assert "1 received" in network["server1"].cmd("ping -c 1 -W 2 198.18.0.1")
        assert "Network is unreachable" in network["tor1"].cmd("ping -c 1 -W 1 192.0.2.1")

    def test_neighbours_take_no_place_in_the_table_that_all_of_the_machine_shares(
        self, network: Network, folder: Folder
    ) -> None:
        network["server1"].cmd("ping -c 1 -W 2 198.18.0.1")
        own = {node.name: folder.namespace(node.name) for node in fattree.nodes(network.graph)}
        for name, path in {"root": folder.root, **own}.items():
            with namespaces.entered(path):
                shown = subprocess.run(
                    ["ip", "-4", "neigh", "show", "nud", "all"], capture_output=True, text=True, check=True
                ).stdout
            counted = [
                line for line in shown.splitlines() if "extern_learn" not in line and "NOARP" not in line
            ]
            assert shown and not counted, f"{name}: {counted}"

    def test_nodes_have_tables_of_tcp_connections_of_their_own(self, network: Network) -> None:
        settings = "net.ipv4.tcp_ehash_entries net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_max_tw_buckets"
        # The number of places of a table that is shared is negative.
        assert network["server1"].cmd(f"sysctl -n {settings}").split() == ["4096", "2048", "131072"]

    def test_a_shell_attaches_to_what_is_there(self, network: Network, folder: Folder) -> None:
        attached = Network(network.graph, folder)
        try:
            assert "100.1.1.17" in attached["server1"].cmd("ip -br address show lo")
            assert attached["client1"].intf("eth1").updateIP() == "100.1.1.1"
        finally:
            attached.close()

    @pytest.mark.parametrize("end", ["exit", "exec true", "kill -9 $$"])
    def test_a_command_that_ends_the_shell_of_its_node_costs_nothing(
        self, network: Network, end: str
    ) -> None:
        self.run(network["server1"], end)
        assert "100.1.1.17" in self.run(network["server1"], "ip -br address show lo")

    def run(self, node: NamespaceNode, command: str) -> str:
        """Run a command in the shell of a node, and give up on it if it does not come to an end."""
        node.sendCmd(command)
        said = []

        def ended() -> bool:
            said.append(node.monitor(0))
            return not node.waiting

        wait_for(ended)
        return "".join(said)

    def test_a_port_that_goes_down_takes_its_peers_carrier(self, network: Network, folder: Folder) -> None:
        wiring.set_ports(folder.namespace("tor1"), ["eth1"], up=False)
        assert "NO-CARRIER" in network["agg1"].cmd("ip link show eth1")
        wiring.set_ports(folder.namespace("tor1"), ["eth1"], up=True)
        wait_for(lambda: "LOWER_UP" in network["agg1"].cmd("ip link show eth1"))

    def test_nothing_of_the_hosts_is_touched(self, network: Network) -> None:
        here = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        assert "mgmt" not in here
        assert "eth1@" not in here


class TestCapture:
    @pytest.fixture
    def link(self, folder: Folder, namespace: Path) -> tuple[capture.End, capture.End]:
        wiring.prepare_root(namespace, 1)
        graph = fattree.fattree(SMALL)
        wiring.build(folder, graph)
        return capture.ends(folder, graph, "tor1", "agg1")

    def send(self, end: capture.End, count: int) -> None:
        with namespaces.entered(end.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((end.interface, 0))
            for number in range(count):
                sender.send(b"\xff" * 12 + b"\x88\xb5" + struct.pack("!I", number) * 20)

    def frames(self, pcap: bytes) -> list[bytes]:
        magic, _, _, _, _, _, kind = struct.unpack_from("=IHHiIII", pcap)
        assert (magic, kind) == (0xA1B23C4D, 1)
        found, position = [], 24
        while position < len(pcap):
            _, _, kept, _ = struct.unpack_from("=IIII", pcap, position)
            found.append(pcap[position + 16 : position + 16 + kept])
            position += 16 + kept
        return found

    def test_both_directions_are_captured(
        self, link: tuple[capture.End, capture.End], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = io.BytesIO()
        sent = False

        class Sending(io.BytesIO):
            def flush(inner) -> None:  # noqa: N805
                nonlocal sent
                if not sent:
                    sent = True
                    self.send(link[0], 3)
                    self.send(link[1], 2)

        output = Sending()
        assert capture.capture(link, output, count=5, seconds=5) == 5
        assert len(self.frames(output.getvalue())) == 5

    def test_a_port_with_an_xdp_program_keeps_it(
        self, link: tuple[capture.End, capture.End], tmp_path: Path
    ) -> None:
        source = tmp_path / "drop.c"
        source.write_text(
            "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n__u64 seen;\n"
            'SEC("xdp") int drop(struct xdp_md *ctx) { __sync_fetch_and_add(&seen, 1); return XDP_DROP; }\n'
            'char _license[] SEC("license") = "GPL";\n'
        )
        from duet_p4.bpf import Object, attach_xdp, compile_object

        with Object(compile_object(source)) as program:
            program.load()
            with namespaces.entered(link[0].namespace):
                index = socket.if_nametoindex(link[0].interface)
                attached = attach_xdp(program.program("drop"), index)
            with attached:
                script = (
                    "import sys; from pathlib import Path; from mininet_topos.testbed.capture import *; "
                    f"capture([End(Path({str(link[0].namespace)!r}), {link[0].interface!r})], "
                    "sys.stdout.buffer, None, 30)"
                )
                capturing = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
                assert capturing.stdout is not None
                head = capturing.stdout.read(24)
                self.send(link[1], 4)
                frames = capturing.stdout.read(4 * (16 + 94))
                assert len(self.frames(head + frames)) == 4
                seen = program.memory("seen")
                assert struct.unpack("=Q", seen)[0] == 4, "the port's own program did not see the packets"
                capturing.kill()
                capturing.wait()
                wait_for(lambda: self.name_of(link[0]) == "drop")
                self.send(link[1], 2)
                wait_for(lambda: struct.unpack("=Q", seen)[0] == 6)

    def name_of(self, end: capture.End) -> str:
        shown = subprocess.run(
            ["nsenter", f"--net={end.namespace}", "ip", "-d", "link", "show", end.interface],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return shown.partition(" name ")[2].split()[0] if " name " in shown else ""

    def test_a_port_that_is_not_there_is_named(self, folder: Folder) -> None:
        graph = fattree.fattree(SMALL)
        with pytest.raises(TestbedError, match=r"tor1 has no port 'eth9'; it has eth1 to agg1"):
            capture.ends(folder, graph, "tor1", "eth9")


def test_the_folder_of_all_testbeds_goes_with_the_last(folder: Folder) -> None:
    others = [entry for entry in ROOT.iterdir() if entry.name != folder.name]
    lifecycle.down(folder)
    assert ROOT.exists() == bool(others)
