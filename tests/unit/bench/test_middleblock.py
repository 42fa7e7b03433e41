"""What `duet bench middleblock` puts into the tables, and what it says where it measured nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from duet_p4.bench import cli
from duet_p4.bench.line import BenchError
from duet_p4.bench.middleblock import Result, Scale, compiled, entries, summary


def test_the_tables_hold_what_is_published() -> None:
    found = Counter(entry.table_id for entry in entries(Scale()))
    assert (found["ipv4_table"], found["nexthop_table"]) == (10_000, 100)
    assert found["acl_ingress_table"] + found["acl_ingress_security_table"] == 500
    assert found["acl_ingress_table"] <= 255, "its size"


def test_what_was_not_measured_is_null() -> None:
    xdp = Result("xdp", pps=80_000.0, loss=0.0, writes_per_s=2000.0)
    assert summary([xdp])["bmv2_pps"] is None
    assert summary([xdp])["xdp_over_bmv2"] is None
    assert summary([xdp, Result("bmv2", 2000.0, 0.0, 1.0)])["xdp_over_bmv2"] == 40


def test_without_the_program_nothing_is_measured_and_without_p4c_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DUET_MIDDLEBLOCK", raising=False)
    result = CliRunner().invoke(cli.middleblock, [])
    assert result.exit_code == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="p4c-bm2-ss is not on PATH"):
        compiled(tmp_path / "middleblock.p4", tmp_path)
