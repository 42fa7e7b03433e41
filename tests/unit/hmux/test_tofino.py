"""What p4c-barefoot made of hmux_tna.p4 belongs to its sources, fits, and takes the same rows as hmux.p4."""

from __future__ import annotations

import json
import shutil
import tempfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4.hmux import cli, codec, pipeline, tofino, tofino_sizes
from duet_p4.hmux.plan import Op, Update
from duet_p4.hmux.rows import (
    AclRow,
    BackstopRow,
    HostRow,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    PinnedRow,
    RouteRow,
    SlotRow,
    TunnelRow,
)
from duet_p4.model import Protocol

A = IPv4Address
PAPER = {"host_table": 16_384, "ecmp_table": 4_096, "tunneling_table": 512, "route_table": 16_384}
COMMITTED = tofino.resources("tofino2")
SCHEMA = tofino.schema("tofino2")
MADE = [chip for chip in tofino.CHIPS if tofino.outputs(chip).is_dir()]
ROWS = [
    HostRow(A("10.0.0.1"), 8, 8),
    HostRow(A("20.0.0.1"), 16, 8, tip=True),
    AclRow(A("10.0.0.1"), Protocol.TCP, 80, 0, 4, True),
    SlotRow(4_095, 511),
    TunnelRow(511, A("100.0.0.1")),
    PinnedRow(A("1.2.3.4"), A("10.0.0.1"), 6, 1_234, 80, 3),
    RouteRow(IPv4Network("10.0.0.0/16"), 1),
    RouteRow(IPv4Network("0.0.0.0/0"), 1, up=True),
    RouteRow(IPv4Network("172.30.0.1/32"), RouteRow.PUNT),
    BackstopRow(1, 2),
    NextHopGroupRow(1, 4, 4),
    NextHopSlotRow(4, 2),
    NextHopRow(2, 9, 1, 2, 1_500),
]


@pytest.fixture(params=MADE)
def chip(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_output_belongs_to_the_sources(chip):
    committed = (tofino.outputs(chip) / "hmux_tna.sha256").read_text().strip()
    assert committed == tofino.digest(), "the sources changed: run `make p4 TARGET=tofino`"


def test_either_chip_holds_it_with_the_tables_of_the_papers_switch(chip):
    tables = tofino.schema(chip).tables
    assert {name: tables[name].size for name in PAPER} == PAPER
    report = tofino.resources(chip)
    assert report.stages <= report.stages_available == {"tofino1": 12, "tofino2": 20}[chip]
    assert 0 < report.sram <= report.sram_available
    assert 0 < report.tcam <= report.tcam_available
    assert sum(stage.sram for stage in report.per_stage) == report.sram


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_is_the_same_entry_by_either_p4info(chip, row):
    theirs = tofino.schema(chip)
    ours = codec.Codec(pipeline.schema()).update(Update(Op.INSERT, row)).entity.table_entry
    entry = codec.Codec(theirs).update(Update(Op.INSERT, row)).entity.table_entry
    assert codec.Codec(theirs).row(entry) == row
    assert [field.field_id for field in entry.match] == [field.field_id for field in ours.match]
    assert entry.action.action.params == ours.action.action.params


def test_the_command_prints_the_committed_report():
    run = CliRunner().invoke(cli.resources, ["--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.output.splitlines()[-1])
    assert {chip: found[chip]["stages"] for chip in found} == {
        c: tofino.resources(c).stages for c in tofino.CHIPS
    }
    for chip in tofino.CHIPS:
        for table, (fits, too_many) in found[chip]["largest"].items():
            assert fits >= tofino.schema(chip).tables[table].size
            assert too_many is None or too_many > fits


def test_options_that_compile_exclude_each_other():
    run = CliRunner().invoke(cli.resources, ["--compile", "--try", "tofino2"])
    assert (run.exit_code, "exclude each other" in run.output) == (2, True)


@given(st.integers(0, 100_000), st.integers(0, 100_000))
@settings(max_examples=30, deadline=None)
def test_a_search_ends_with_bounds_a_quarter_apart_and_goes_on_from_what_was_tried(limit, placeable):
    folder = Path(tempfile.mkdtemp())
    compiled: list[int] = []

    def stages(chip: str, table: str, size: int) -> int | None:
        compiled.append(size)
        if size <= 2_048 + limit:
            return 18
        return 21 if size <= 2_048 + limit + placeable else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tofino_sizes.tofino, "outputs", lambda chip: folder)
        patched.setattr(tofino_sizes.tofino, "resources", lambda chip: COMMITTED)
        patched.setattr(tofino_sizes.tofino, "schema", lambda chip: SCHEMA)
        patched.setattr(tofino_sizes.tofino, "digest", lambda: "these sources")
        *_, first = tofino_sizes.search("tofino2", "source_table", stages)
        fits, too_many = tofino_sizes.bounds(first, COMMITTED.stages_available)
        assert fits <= 2_048 + limit < too_many
        assert too_many - fits <= max(1, fits // tofino_sizes.FINENESS)
        assert tofino_sizes.tried("tofino2") == {"source_table": first}
        tried = len(compiled)
        assert list(tofino_sizes.search("tofino2", "source_table", stages)) == []
        assert len(compiled) == tried, "what is known was compiled again"
    shutil.rmtree(folder)


def test_a_table_whose_entries_a_field_counts_does_not_grow_by_itself():
    with pytest.raises(ValueError, match="ecmp_table cannot grow by itself"):
        next(tofino_sizes.search("tofino2", "ecmp_table", lambda chip, table, size: 1))


def test_the_sources_state_the_size_of_every_table_that_may_grow():
    stated = (tofino.P4_SOURCES / "include" / "sizes.p4").read_text()
    for table in tofino_sizes.TABLES:
        assert f"#define {table.upper()}_SIZE " in stated


def test_without_the_compiler_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(FileNotFoundError, match="p4c-barefoot is not on PATH"):
        tofino.compile_for("tofino2")
