"""The committed output of p4c, and what Python repeats of the P4 sources, agree with the sources."""

import re
import shutil
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from duet_p4 import flow_hash, p4c
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.rows import UNDERLAY_ROWS, VIP_ROWS
from duet_p4.model import Protocol

ROOT = Path(__file__).parents[3]
PROGRAMS = [ROOT / "p4src" / "hmux.p4", *sorted((ROOT / "tests" / "p4").glob("*.p4"))]
A = IPv4Address


def p4(name: str) -> str:
    return (pipeline.P4_SOURCES / "include" / name).read_text()


def p4_constant(name: str, file: str = "types.p4") -> int:
    match = re.search(rf"\b{name}\s*=\s*(\w+);", p4(file))
    assert match, f"{file} has no constant {name}"
    return int(match[1], 0)


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_output_belongs_to_the_sources(source):
    device_config, p4info, digest_file = p4c.outputs(source)
    assert digest_file.read_text().strip() == p4c.digest(source), "the sources changed: run `make p4`"
    assert device_config.is_file()
    assert p4info.is_file()


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_output_names_only_paths_of_the_project(source):
    device_config = p4c.outputs(source)[0].read_text()
    files = set(re.findall(r'"filename" : "([^"]*)"', device_config))
    assert {name for name in files if name.startswith("/")} == set()
    assert f'"program" : "{source.relative_to(ROOT)}"' in device_config


@pytest.mark.skipif(shutil.which(p4c.COMPILER) is None, reason=f"{p4c.COMPILER} is not on PATH")
def test_output_can_be_reproduced(tmp_path, monkeypatch, capfd):
    shutil.copytree(pipeline.P4_SOURCES, tmp_path / "p4src", ignore=shutil.ignore_patterns("build"))
    monkeypatch.chdir(tmp_path)
    assert p4c.main(["p4src/hmux.p4"]) == 0
    assert "warning" not in capfd.readouterr().err
    assert (tmp_path / "p4src/build/hmux.p4info.txtpb").read_text() == pipeline.P4INFO.read_text()


def test_no_compiler_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert p4c.main(["p4src/hmux.p4"]) == 1
    assert "p4c-bm2-ss is not on PATH" in capsys.readouterr().err


def test_either_target_defines_what_the_controls_use():
    defined = re.compile(r"^#define (\w+)", re.MULTILINE)
    v1model = set(defined.findall(p4("v1model_target.p4"))) - {"V1MODEL_TARGET_P4"}
    tofino = set(defined.findall((pipeline.P4_SOURCES / "tna" / "target.p4").read_text())) - {"TNA_TARGET_P4"}
    assert v1model - tofino == {"COUNT_DROP", "CUT_FRAME"}, "all but what makes ICMP errors"


def test_either_flow_hash_defines_what_the_controls_use():
    used = re.compile(r"^#define ((?:USE|TAKE)_\w+)", re.MULTILINE)
    v1model = set(used.findall(p4("flow_hash.p4")))
    assert v1model == set(used.findall((pipeline.P4_SOURCES / "tna" / "flow_hash.p4").read_text()))
    assert len(v1model) == 5


def test_tofino_gives_every_reason_to_drop_a_packet():
    verdict = (pipeline.P4_SOURCES / "tna" / "verdict.p4").read_text()
    given = set(re.findall(r": drop\(DROP_(\w+)\);", verdict))
    assert given == {reason.name for reason in entries.DropReason}


def test_drop_reasons_are_those_of_the_p4_program():
    stated = re.findall(r"DROP_(\w+)\s*= (\d+);", p4("drop_reasons.p4"))
    assert {name: int(number) for name, number in stated} == {
        reason.name: reason for reason in entries.DropReason
    }
    assert pipeline.schema().counters["drop_counter"].size == len(entries.DropReason)


def test_numbers_are_those_of_the_p4_program():
    assert p4_constant("TIP_SEED") == flow_hash.TIP_SEED
    assert p4_constant("CPU_PORT", "v1model_target.p4") == pipeline.CPU_PORT


def test_tables_are_those_of_the_p4_program():
    with_rows = {row.P4.table for row in (*VIP_ROWS, *UNDERLAY_ROWS)}
    configured = {"port_table", "punt_table", "source_table"}
    assert with_rows | configured == set(pipeline.sizes())
    assert {*pipeline.sizes(), "switch_table"} == {table.alias for table in pipeline.schema().tables}


def test_sizes_are_the_papers():
    sizes = pipeline.sizes()
    papers = {"host_table": 16384, "route_table": 16384, "ecmp_table": 4096, "tunneling_table": 512}
    assert {name: sizes[name] for name in papers} == papers
    assert sizes["acl_table"] == 1024


@pytest.mark.parametrize(
    "entry",
    [
        entries.configuration(A("172.30.0.1"), 0xFFFF_FFFF, 0xFFFF_FFFF),
        entries.port(511, "02:00:00:00:00:01", entries.PortKind.HOST),
        entries.source(1, IPv4Network("100.1.1.0/28")),
        entries.source(1, IPv4Network("0.0.0.0/0")),
        entries.punt(),
        entries.vip(A("10.0.0.1"), 4095, 4096, has_ports=True, has_pinned_flows=True),
        entries.tip(A("20.0.0.1"), 0, 1),
        entries.port_group(A("10.0.0.1"), Protocol.TCP, 80, 0, 1, has_pinned_flows=True),
        entries.slot(4095, 511),
        entries.pinned_flow(A("100.0.0.1"), A("10.0.0.1"), 255, 65535, 65535, 511),
        entries.tunnel(511, A("100.0.0.1")),
        entries.route(IPv4Network("0.0.0.0/0"), 1023),
        entries.route_to_cpu(IPv4Network("172.30.0.1/32")),
        entries.route_to_nowhere(IPv4Network("10.0.0.0/16")),
        entries.nexthop_group(1023, 4095, 4096),
        entries.nexthop_slot(4095, 1023),
        entries.nexthop(1023, 511, "02:00:00:00:00:01", 0x0200_0000_0002, 9000),
        *entries.drop_counters(),
    ],
    ids=repr,
)
def test_every_entry_encodes_and_comes_back(entry):
    schema = pipeline.schema()
    message = entry.encode(schema)
    decoded = type(entry).decode(message, schema)
    assert decoded.encode(schema) == message


@pytest.mark.parametrize(
    "entry",
    [
        lambda: entries.slot(4096, 0),
        lambda: entries.slot(0, 512),
        lambda: entries.tunnel(512, A("100.0.0.1")),
        lambda: entries.nexthop(1, 512, 1, 2, 1500),
    ],
)
def test_values_that_do_not_fit_are_refused(entry):
    with pytest.raises(ValueError, match=r"4096|512"):
        entry().encode(pipeline.schema())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: entries.vip(A("10.0.0.1"), 0, 0), r"VIP 10\.0\.0\.1 has neither slots nor ports"),
        (lambda: entries.tip(A("20.0.0.1"), 0, 0), r"TIP 20\.0\.0\.1 has 0 slots"),
        (lambda: entries.nexthop_group(3, 0, 0), "next-hop group 3 has 0 slots"),
        (
            lambda: entries.port_group(A("10.0.0.1"), Protocol.UDP, 53, 0, 0),
            r"10\.0\.0\.1 udp/53 has 0 slots",
        ),
        (lambda: entries.nexthop(1, 1, 1, 2, 67), "MTU 67"),
        (lambda: entries.nexthop(1, 1, 1, 2, 65536), "MTU 65536"),
    ],
)
def test_entries_that_lead_nowhere_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
