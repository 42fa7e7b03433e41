"""Clients and scripts that others wrote drive a switch: finsy, p4runtime-shell, p4-utils, p4lang's tutorials.

p4-utils and the tutorials are in no package: their tests run where P4UTILS and TUTORIALS name clones of
github.com/nsg-ethz/p4-utils and github.com/p4lang/tutorials.
"""

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
DRIVERS = Path(__file__).parent / "drivers"
SHELL = ROOT / ".venv-shell" / "bin" / "python"
TCP_PORT = "9559"
FILES = [str(HERE / "features.p4info.txtpb"), str(HERE / "features.json")]


@pytest.fixture
def fresh(switch: XdpSwitch) -> XdpSwitch:
    """The switch started anew: only a restart forgets the highest election id."""
    switch.kill()
    switch.start("--no-p4")
    switch.client().channel.close()
    return switch


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


def drive(switch: XdpSwitch, driver: str, *arguments: str) -> None:
    """Run one of the drivers in the switch's namespace, by the Python that has p4runtime-shell."""
    if not SHELL.exists():
        pytest.skip("p4runtime-shell is not set up: scripts/clients makes .venv-shell")
    result = subprocess.run(
        ["ip", "netns", "exec", switch.namespace, SHELL, DRIVERS / driver, *arguments, *FILES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "driven", result.stdout


def clone(variable: str, source: str) -> str:
    """Return the folder that a variable of the environment names."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no clone of github.com/{source}, which is in no package")
    return folder


def test_p4runtime_shell_drives_the_switch(fresh: XdpSwitch) -> None:
    drive(fresh, "shell.py", f"unix:{fresh.socket}")


def test_p4langs_p4runtime_lib_drives_the_switch(fresh: XdpSwitch) -> None:
    drive(fresh, "p4runtime_lib.py", clone("TUTORIALS", "p4lang/tutorials"), f"unix:{fresh.socket}")


def test_the_api_of_p4_utils_drives_the_switch(switch: XdpSwitch) -> None:
    """As its networks do: the switch starts with its program, and listens on a port."""
    folder = clone("P4UTILS", "nsg-ethz/p4-utils")
    switch.kill()
    switch.run("ip", "link", "set", "lo", "up")
    switch.start(FILES[1], address=f"127.0.0.1:{TCP_PORT}")
    try:
        drive(switch, "p4utils_api.py", folder, TCP_PORT)
    finally:
        switch.kill()
        switch.start("--no-p4")


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
