"""Clients that others wrote drive a switch: finsy, p4runtime-shell, and p4lang's p4runtime_lib."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import finsy
import pytest

from tests.integration.p4runtime.conftest import XdpSwitch
from tests.unit.p4runtime.conftest import HERE

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[3]
SHELL = ROOT / ".venv-shell"
TUTORIALS = os.environ.get("P4_TUTORIALS")
"""A clone of p4lang/tutorials, whose p4runtime_lib is no package of any registry."""


@pytest.fixture(scope="session")
def shell_python() -> Path:
    """The Python of the environment that `make shell` makes, with protobuf 3.20 and p4runtime-shell."""
    python = SHELL / "bin" / "python"
    if not (SHELL / "ready").exists():
        made = subprocess.run(
            ["scripts/p4runtime-shell", "--setup"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"p4runtime-shell cannot be installed: {made.stderr.strip().splitlines()[-1]}")
    return python


@pytest.fixture
def fresh(switch: XdpSwitch) -> XdpSwitch:
    """The switch started anew: only a restart forgets the highest election id."""
    switch.kill()
    switch.start("--no-p4")
    switch.client().channel.close()
    return switch


def run(switch: XdpSwitch, python: Path, script: str, **environment: str) -> str:
    """Run a script in the switch's namespace and return what it printed."""
    done = subprocess.run(
        ["ip", "netns", "exec", switch.namespace, python, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_finsy_drives_the_switch(fresh: XdpSwitch) -> None:
    found: list[finsy.P4TableEntry] = []
    done = asyncio.Event()

    async def ready(sw: finsy.Switch) -> None:
        await sw.delete_all()
        entry = finsy.P4TableEntry(
            "host",
            match=finsy.P4TableMatch(dst=7),
            action=finsy.P4TableAction("forward", port=1, mac=2),
        )
        await sw.insert([entry])
        await sw.modify([entry])
        found.extend([item async for item in sw.read(finsy.P4TableEntry("host"))])
        await sw.delete([entry])
        assert [item async for item in sw.read(finsy.P4TableEntry("host"))] == []
        done.set()

    async def drive() -> None:
        options = finsy.SwitchOptions(
            p4info=HERE / "features.p4info.txtpb",
            p4blob=HERE / "features.json",
            device_id=1,
            ready_handler=ready,
        )
        sw = finsy.Switch("s1", f"unix:{fresh.socket}", options)
        async with asyncio.timeout(30), finsy.Controller([sw]):
            await done.wait()

    asyncio.run(drive())
    assert len(found) == 1


SHELL_SCRIPT = """
import p4runtime_sh.shell as sh
config = sh.FwdPipeConfig({info!r}, {config!r})
sh.setup(device_id=1, grpc_addr="unix:{socket}", election_id=(0, 1), config=config)
entry = sh.TableEntry("IngressImpl.host")(action="IngressImpl.forward")
entry.match["hdr.ipv4.dst"] = "10.0.0.1"
entry.action["port"] = "1"
entry.action["mac"] = "00:00:00:00:00:01"
entry.insert()
print("entries", len(list(sh.TableEntry("IngressImpl.host").read())))
group = sh.MulticastGroupEntry(1).add(1, 1).add(2, 1)
group.insert()
print("replicas", len(sh.MulticastGroupEntry(1).read().replicas))
session = sh.CloneSessionEntry(5).add(1, 1)
session.insert()
member = sh.ActionProfileMember("IngressImpl.next_hops")(member_id=1, action="IngressImpl.forward")
member.action["port"] = "1"
member.action["mac"] = "00:00:00:00:00:01"
member.insert()
counter = sh.CounterEntry("IngressImpl.drops")
counter.index = 1
counter.packet_count = 4
counter.modify()
print("cells", len(list(sh.CounterEntry("IngressImpl.drops").read())))
entry.delete()
group.delete()
session.delete()
member.delete()
print("entries", len(list(sh.TableEntry("IngressImpl.host").read())))
sh.teardown()
"""


def test_p4runtime_shell_drives_the_switch(fresh: XdpSwitch, shell_python: Path) -> None:
    script = SHELL_SCRIPT.format(
        info=str(HERE / "features.p4info.txtpb"), config=str(HERE / "features.json"), socket=fresh.socket
    )
    printed = run(fresh, shell_python, script)
    assert [line for line in printed.splitlines() if line.split()[0] in ("entries", "replicas", "cells")] == [
        "entries 1",
        "replicas 2",
        "cells 8",
        "entries 0",
    ]


LIBRARY_SCRIPT = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
# What p4lang's PI installs as p4/tmp/p4config_pb2.
import types
file = descriptor_pb2.FileDescriptorProto(name="p4/tmp/p4config.proto", package="p4.tmp", syntax="proto3")
message = file.message_type.add(name="P4DeviceConfig")
message.field.add(name="reassign", number=1, type=8, label=1)
message.field.add(name="device_data", number=3, type=12, label=1)
pool = descriptor_pool.Default()
pool.Add(file)
made = types.ModuleType("p4.tmp.p4config_pb2")
kind = pool.FindMessageTypeByName("p4.tmp.P4DeviceConfig")
made.P4DeviceConfig = message_factory.MessageFactory(pool).GetPrototype(kind)
package = types.ModuleType("p4.tmp")
package.p4config_pb2 = made
sys.modules["p4.tmp"], sys.modules["p4.tmp.p4config_pb2"] = package, made

from p4runtime_lib.bmv2 import Bmv2SwitchConnection
from p4runtime_lib.helper import P4InfoHelper
helper = P4InfoHelper({info!r})
switch = Bmv2SwitchConnection(name="s1", address="unix:{socket}", device_id=1)
switch.MasterArbitrationUpdate()
switch.SetForwardingPipelineConfig(p4info=helper.p4info, bmv2_json_file_path={config!r})
entry = helper.buildTableEntry(
    table_name="IngressImpl.host",
    match_fields={{"hdr.ipv4.dst": "10.0.0.1"}},
    action_name="IngressImpl.forward",
    action_params={{"port": 1, "mac": "00:00:00:00:00:01"}},
)
switch.WriteTableEntry(entry)
found = switch.ReadTableEntries(helper.get_tables_id("host"))
print("entries", sum(len(response.entities) for response in found))
for response in switch.ReadCounters(helper.get_counters_id("IngressImpl.drops"), 1):
    print("counters", len(response.entities))
switch.shutdown()
"""


def test_p4langs_runtime_library_drives_the_switch(fresh: XdpSwitch, shell_python: Path) -> None:
    if TUTORIALS is None:
        pytest.skip("P4_TUTORIALS names no clone of p4lang/tutorials, which has p4runtime_lib")
    script = LIBRARY_SCRIPT.format(
        info=str(HERE / "features.p4info.txtpb"), config=str(HERE / "features.json"), socket=fresh.socket
    )
    printed = run(fresh, shell_python, script, PYTHONPATH=str(Path(TUTORIALS) / "utils"))
    assert printed.splitlines()[-2:] == ["entries 1", "counters 1"]


def test_the_wrapper_of_p4langs_clients_is_taken(fresh: XdpSwitch) -> None:
    """P4DeviceConfig: field 3 of a message, as bytes."""
    client = fresh.client()
    data = client.config.p4_device_config
    length = len(data)
    varint = b""
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    client.config.p4_device_config = b"\x08\x01" + b"\x1a" + varint + bytes([length]) + data
    client.push()
    assert len(client.read(client.names.entry("protocol"))) == 2
    client.channel.close()


def test_it_is_simple_switch_grpc_for_whoever_starts_it(tmp_path: Path) -> None:
    switch = XdpSwitch(tmp_path)
    try:
        switch.kill()
        program = ROOT / "bin" / "simple_switch_grpc"
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", switch.namespace, program, "--log-file", tmp_path / "log"),
                    *("--dump-packet-data", "10000", "--device-id", "1", "-i", "1@s1", "--no-p4"),
                    *("--", "--grpc-server-addr", f"unix:{switch.socket}"),
                ],
                stderr=out,
            )
        switch.socket.unlink(missing_ok=True)
        client = switch.client()
        client.push()
        client.channel.close()
        names = {path.read_text().strip() for path in Path("/proc").glob(f"{process.pid}/comm")}
        assert names == {"simple_switch_g"}, "what pkill looks for"
        process.terminate()
        assert process.wait(10) == 0
        assert "--dump-packet-data" in (tmp_path / "log.txt").read_text()
    finally:
        switch.close()
