"""STF tests of our own programs, and what the runner says of tests that are wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from duet_p4 import bmv2
from duet_p4.hmux import pipeline
from duet_p4.xdp_switch.stf import suite
from duet_p4.xdp_switch.stf.cli import stf
from duet_p4.xdp_switch.stf.suite import Outcome
from duet_p4.xdp_switch.stf.xdp import Xdp
from ptf_tests.conformance import testgen, tofino_tests

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]

P4 = Path(__file__).parents[2] / "p4"
MISSING = bmv2.without_shell()
TESTS = [*suite.tests(P4), testgen.PATH]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.stem)
def test_packets_leave_as_expected(test: Path) -> None:
    verdict = suite.run(test)
    assert verdict.outcome is Outcome.PASSED, verdict.reason


@pytest.mark.skipif(MISSING is not None, reason=f"{MISSING}: nothing to compare with")
@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.stem)
def test_bmv2_does_the_same(test: Path) -> None:
    verdict = suite.run(test, "bmv2")
    assert verdict.outcome is Outcome.PASSED, verdict.reason


def test_hmux_does_what_p4testgen_says_of_the_tofino_program_but_for_known_differences() -> None:
    switch = Xdp(pipeline.DEVICE_CONFIG.read_bytes(), pipeline.schema().p4info)
    try:
        tests = tofino_tests.read().tests
        differing = list(tofino_tests.differences(tofino_tests.replay(tests, switch)))
    finally:
        switch.close()
    assert not differing, "\n\n".join(differing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a copy of the test `copies`."""
    (tmp_path / "build").mkdir()
    for name in ("copies.stf", "build/copies.json", "build/copies.p4info.txtpb"):
        shutil.copy(P4 / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("abcd c0ffee $", "abce c0ffee $", "port 2, packet 0"),
        ("expect 4", "expect 8", "port 4: 2 packets expected, 3 left"),
        ("mc_mgrp_create 9", "mc_mgrp_make 9", "mc_mgrp_make is no STF command"),
        ("passes(3) packets == 1", "passes(3) packets == 2", "passes(3) packets == 2: it is 1"),
        ("passes(3) packets == 1", "pass(3) packets == 1", "no object pass"),
    ],
)
def test_what_differs_fails_and_is_told(folder: Path, old: str, new: str, told: str) -> None:
    test = folder / "copies.stf"
    text = test.read_text()
    assert old in text
    test.write_text(text.replace(old, new, 1))
    verdict = suite.run(test)
    assert verdict.outcome is Outcome.FAILED
    assert told in verdict.reason


def test_the_command_counts_outcomes(folder: Path) -> None:
    (folder / "gone.stf").write_text("packet 1 00\n")
    result = CliRunner().invoke(stf, [str(folder), "--json", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output.splitlines()[-1])
    counts = {key: summary[key] for key in ("passed", "failed", "refused", "skipped")}
    assert counts == {"passed": 1, "failed": 0, "refused": 0, "skipped": 1}
    assert summary["reasons"] == {"gone": "there is no gone.p4"}


def test_a_folder_without_tests_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(stf, [str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no .stf file" in result.output
