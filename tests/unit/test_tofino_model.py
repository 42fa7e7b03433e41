"""The packet tests' way to a Tofino's model: what is run, and what the driver is told. No model is here."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from finsy import P4TableEntry
from finsy.proto import p4r

from duet_p4.hmux import entries, pipeline
from ptf_tests import tofino_model
from ptf_tests.numbering import Numbering
from ptf_tests.p4runtime import P4Runtime
from ptf_tests.targets import MODEL, Target, target_of
from tests.unit.bf_switchd import BINARY, CONTEXT, BfSwitchd, compiled, serving

MAC = "02:00:00:00:00:01"


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return target_of(MODEL, compiled(tmp_path))


def install(folder: Path, *programs: str) -> None:
    (folder / "bin").mkdir(parents=True)
    for program in programs:
        path = folder / "bin" / program
        path.touch()
        path.chmod(0o755)


def test_the_driver_is_told_which_program_and_where_to_serve(tmp_path, monkeypatch):
    install(tmp_path / "sde", MODEL, tofino_model.DRIVER)
    monkeypatch.setenv("PATH", str(tmp_path / "sde" / "bin"))
    conf = tmp_path / "hmux_tna.conf"
    ports = {1: "switch1", 6: "switch6"}
    model, driver = tofino_model.commands(ports, conf, tmp_path, "127.0.0.1:9559")
    assert [model[0], driver[0]] == [str(tmp_path / "sde/bin" / name) for name in (MODEL, "bf_switchd")]
    assert model[1:3] == ["--p4-target-config", str(conf)]
    assert "--chip-type=5" in model
    assert json.loads(Path(model[model.index("-f") + 1]).read_text()) == {
        "PortToIf": [{"device_port": 8, "if": "switch1"}, {"device_port": 13, "if": "switch6"}]
    }
    told = dict(zip(driver[1:7:2], driver[2:7:2], strict=True))
    assert told == {
        "--install-dir": str(tmp_path / "sde"),
        "--conf-file": str(conf),
        "--skip-p4": "--p4rt-server",
    }
    assert driver[-2:] == ["127.0.0.1:9559", "--background"]


@pytest.mark.parametrize("there", [(), (MODEL,)])
def test_what_is_not_on_path_is_named(tmp_path, monkeypatch, there):
    install(tmp_path, *there)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(FileNotFoundError, match=f"^{'bf_switchd' if there else MODEL} is not on PATH: docs/"):
        tofino_model.programs()


def test_without_a_program_it_says_so():
    with pytest.raises(ValueError, match=r"say where its \.conf is"):
        target_of(MODEL)


def test_the_tests_ports_are_the_chips_on_the_wire_and_the_tests_own_when_read(target):
    peer = BfSwitchd()
    wanted = [
        entries.port(1, MAC, entries.PortKind.HOST),
        entries.source(6, IPv4Network("100.1.1.0/28")),
        entries.nexthop(2, 6, MAC, MAC, 1500),
        entries.backstop(3, 1),
    ]

    def converse(address: str) -> list[P4TableEntry]:
        with P4Runtime(address, target.schema, target.device_id, target.ports) as switch:
            switch.push_pipeline()
            switch.write(+entry for entry in wanted)
            return switch.read(*(P4TableEntry(entry.table_id) for entry in wanted))

    async def run() -> list[P4TableEntry]:
        async with serving(peer) as address:
            return await asyncio.to_thread(converse, address)

    found = asyncio.run(run())
    assert peer.pushed == [[b"hmux_tna", BINARY, CONTEXT]]
    assert [e.encode(target.schema) for e in found] == [e.encode(target.schema) for e in wanted]
    told = {
        target.schema.tables[entry.table_id].alias: [
            *(int.from_bytes(match.exact.value) for match in entry.match if match.HasField("exact")),
            *(int.from_bytes(part.value) for part in entry.action.action.params if len(part.value) == 1),
        ]
        for entry in peer.held.values()
    }
    assert told["port_table"] == [8]
    assert told["source_table"] == [13]
    assert told["backstop_table"] == [10, 1]
    assert told["nexthop_table"] == [2, 13]


def test_packets_of_the_cpu_name_the_tests_ports(target):
    message = entries.packet_out(6, b"frame").encode_update(target.schema)
    target.ports.to_switch(message.packet)
    assert int.from_bytes(message.packet.metadata[0].value) == 13
    came = p4r.PacketIn(metadata=message.packet.metadata)
    target.ports.to_test(came)
    assert int.from_bytes(came.metadata[0].value) == 6


def test_other_targets_have_the_tests_numbers():
    numbering = Numbering()
    entity = entries.port(1, MAC).encode(pipeline.schema())
    before = entity.SerializeToString()
    numbering.to_switch(entity)
    assert entity.SerializeToString() == before
