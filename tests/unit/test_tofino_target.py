"""The agent's targets for Tofinos, against a peer scripted after documentation; no chip was tried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.routes import Adjacency, Gateway, Place, RouteTables
from duet_p4.hmux.rows import UNDERLAY_ROWS, VIP_ROWS, NextHopGroupRow, Row
from duet_p4.hmux.tables import VipTables
from duet_p4.hmux.tofino import CHIPS
from duet_p4.hmux.tofino_config import CompiledProgram, Server
from duet_p4.model import Dip, Group, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol
from duet_p4.switch_agent import p4session
from duet_p4.switch_agent.admission import admission
from duet_p4.switch_agent.config import P4Config, SwitchConfig, TofinoConfig
from duet_p4.switch_agent.p4client import Switch
from duet_p4.switch_agent.targets import Target, target_of
from tests.unit.bf_switchd import BINARY, CONTEXT, STRATUM_CONFIG, BfSwitchd, compiled, serving
from tests.unit.test_switch_config import config as switch_config

A = IPv4Address
VIP, TIP = A("10.0.0.1"), A("20.0.0.1")
PORTS = (8, 9, 136)
"""Device ports: two of the first pipe, one of the second."""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return compiled(tmp_path)


@pytest.fixture
def target(conf: Path) -> Target:
    return target_of(tofino_config(conf))


def tofino_config(conf: Path, server: Server = Server.BF_SWITCHD, chip: str = "tofino2") -> P4Config:
    tofino = TofinoConfig(conf=conf, cpu_interface="ens1", server=server)
    return P4Config(address="127.0.0.1:50051", insecure=True, target=chip, tofino=tofino)


def tofino_switch(conf: Path, chip: str) -> SwitchConfig:
    """Return the configuration of a ToR: two uplinks, and a port with hosts."""

    def port(index: int, number: int, **changes: Any) -> dict[str, Any]:
        return {
            "number": number,
            "interface": f"eth{index}",
            "mac": f"02:00:00:00:00:{index:02x}",
            "address": f"172.31.0.{2 * index}/31",
            "peer": f"172.31.0.{2 * index + 1}",
            "mtu": 1600,
        } | changes

    hosts = ["100.1.1.16/28"]
    ports = [port(1, PORTS[0], up=True), port(2, PORTS[1], up=True), port(3, PORTS[2], prefixes=hosts)]
    return switch_config(ports=ports, p4=tofino_config(conf, chip=chip).model_dump())


def group(first: int, count: int, slots: int) -> Group:
    dips = tuple(Dip(address=A("100.0.0.0") + n) for n in range(first, first + count))
    return Group.of(dips, slots)


def rows_of(*plans: Iterable[Any]) -> set[Row]:
    return {update.row for plan in plans for update in plan}


def load_balancer(tables: VipTables) -> list[Any]:
    """Return the plans that a VIP with a port and a pinned flow needs, and a TIP."""
    web = MuxPortGroup(protocol=Protocol.TCP, port=80, group=group(10, 3, 32))
    pin = PinnedFlow(
        source=A("192.0.2.1"), protocol=6, source_port=1234, destination_port=443, dip=A("100.0.0.1")
    )
    plans = []
    for entry in (
        MuxTip(address=TIP, group=group(40, 2, 16)),
        MuxVip(address=VIP, group=group(1, 4, 32), ports=(web,), pinned=(pin,)),
    ):
        plan = tables.put_vip(entry) if isinstance(entry, MuxVip) else tables.put_tip(entry)
        tables.apply(plan)
        plans.append(plan)
    return plans


def underlay(tables: RouteTables) -> Any:
    """Return the plan for routes by one gateway, by two, and by three."""
    gateways = [Gateway(port, A("172.31.0.3") + 2 * n) for n, port in enumerate(PORTS)]
    tables.want(
        {
            IPv4Network("0.0.0.0/0"): frozenset(gateways[:2]),
            IPv4Network("10.0.0.0/16"): frozenset(gateways),
            IPv4Network("100.1.1.16/28"): frozenset(gateways[2:]),
        }
    )
    tables.reach({one: Adjacency(0x02_0000_0000_01, 0x02_0000_0000_02, 1600) for one in gateways})
    return tables.plan()


@pytest.mark.parametrize("chip", CHIPS)
def test_an_agent_pushes_configures_fills_and_reads_back(
    chip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, peer = tofino_switch(compiled(tmp_path, chip), chip), BfSwitchd()
    target = target_of(config.p4)
    # How long a busy machine takes is not what is asked here.
    monkeypatch.setattr(p4session, "_CONNECT_TIMEOUT_S", 120.0)
    monkeypatch.setattr(p4session, "_RPC_TIMEOUT_S", 120.0)
    vips = VipTables(target.sizes_of(VIP_ROWS), masked=target.masks_hashes)
    routes = RouteTables(
        target.sizes_of(UNDERLAY_ROWS), place=Place(frozenset(PORTS[:2])), masked=target.masks_hashes
    )
    plans = [*load_balancer(vips), underlay(routes)]

    async def run() -> None:
        async with serving(peer) as address:
            switch = Switch(address, 0, schema=target.schema)
            async with switch.session():
                assert await switch.ensure_pipeline()
                await switch.configure(admission(config, answers=target.answers))
                for plan in plans:
                    await switch.write_plan(plan)
            # Another agent, as after an upgrade: it finds all that, and has nothing to push.
            again = Switch(address, 0, schema=target.schema)
            async with again.session():
                assert not await again.ensure_pipeline()
                await again.configure(admission(config, answers=target.answers))
                rows, foreign = await again.read_rows()
                assert (set(rows), foreign) == (rows_of(*plans), [])
                assert again.writes == 0, "what was right was written again"
                assert await again.packets([VIP, TIP]) == 0
                assert await again.read_drops() == dict.fromkeys(entries.DropReason, 0)

    asyncio.run(run())
    assert peer.pushed == [[b"hmux_tna", BINARY, CONTEXT]]
    ports = next(
        table.preamble.id for table in target.schema.p4info.tables if table.preamble.alias == "port_table"
    )
    held = [entry for entry in peer.held.values() if entry.table_id == ports]
    assert {int.from_bytes(entry.match[0].exact.value) for entry in held} == set(PORTS)


def test_every_group_of_the_underlay_has_a_power_of_two_of_slots(target: Target):
    plan = underlay(RouteTables(target.sizes_of(UNDERLAY_ROWS), masked=target.masks_hashes))
    counts = sorted(row.count for row in rows_of(plan) if isinstance(row, NextHopGroupRow))
    assert counts == [1, 8, 16]


def test_stratum_gets_its_own_packing(conf: Path):
    config = STRATUM_CONFIG.FromString(CompiledProgram.read(conf).packed(Server.STRATUM))
    assert (config.p4_name, config.bfruntime_info) == ("hmux_tna", (conf.parent / "bf-rt.json").read_bytes())
    (profile,) = config.profiles
    assert (profile.profile_name, profile.context, profile.binary) == ("pipe", CONTEXT, BINARY)
    assert list(profile.pipe_scope) == [0, 1, 2, 3]
    pushed = target_of(tofino_config(conf, Server.STRATUM)).schema.get_pipeline_config()
    assert STRATUM_CONFIG.FromString(pushed.p4_device_config) == config


def test_it_is_the_tofinos_program_with_the_tables_of_the_others(target: Target):
    theirs, ours = target.schema, target_of(P4Config(address="unix:/p4"))
    assert (target.sizes_of(VIP_ROWS), target.sizes_of(UNDERLAY_ROWS)) == (
        ours.sizes_of(VIP_ROWS),
        ours.sizes_of(UNDERLAY_ROWS),
    )
    assert {name: theirs.tables[name].size for name in pipeline.sizes()} == pipeline.sizes()
    assert ours.answers and not target.answers
    # What hostif.bpf.c writes and reads in front of frames.
    headers = [
        [field.bitwidth for field in header.metadata]
        for schema in (theirs, ours.schema)
        for header in schema.p4info.controller_packet_metadata
    ]
    assert headers == [[9, 7]] * 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda conf: conf.write_text("{}"), "no 'p4_devices'"),
        (lambda conf: conf.write_text("tofino"), "no configuration of one program"),
        (lambda conf: conf.write_text('{"p4_devices": []}'), "no configuration of one program"),
        (lambda conf: _restate(conf, "pipe_scope", [4]), "no pipe 4"),
        (lambda conf: _rename_table(conf), r"other sources .*\.host_table is None"),
    ],
    ids=["empty", "no JSON", "no device", "pipe", "other program"],
)
def test_a_program_that_cannot_be_this_one_is_refused(conf: Path, change: Any, named: str):
    change(conf)
    with pytest.raises(ValueError, match=named):
        target_of(tofino_config(conf))


def test_a_file_that_is_missing_is_named(conf: Path):
    (conf.parent / "pipe" / "tofino.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"tofino\.bin"):
        target_of(tofino_config(conf))


def test_bf_switchd_takes_one_pipeline(conf: Path):
    stated = json.loads(conf.read_text())
    (program,) = stated["p4_devices"][0]["p4_programs"]
    program["p4_pipelines"] *= 2
    conf.write_text(json.dumps(stated))
    read = CompiledProgram.read(conf)
    assert len(STRATUM_CONFIG.FromString(read.packed(Server.STRATUM)).profiles) == 2
    with pytest.raises(ValueError, match="takes one pipeline, hmux_tna has 2"):
        read.packed(Server.BF_SWITCHD)


def _restate(conf: Path, key: str, value: Any) -> None:
    stated = json.loads(conf.read_text())
    stated["p4_devices"][0]["p4_programs"][0]["p4_pipelines"][0][key] = value
    conf.write_text(json.dumps(stated))


def _rename_table(conf: Path) -> None:
    path = conf.parent / "bf-rt.json"
    path.write_text(path.read_text().replace("vips.host_table", "vips.guest_table"))
