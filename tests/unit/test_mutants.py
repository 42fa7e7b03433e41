"""Mutants of hmux.p4: each is one fault, and those that nobody can tell from it are known as such."""

from __future__ import annotations

import json
import re
from pathlib import Path

from duet_p4.hmux.pipeline import DEVICE_CONFIG
from ptf_tests.conformance import kills, testgen
from ptf_tests.conformance.equivalence import Equivalence
from ptf_tests.conformance.kills import Verdict
from ptf_tests.conformance.mutants import Mutant

CONFIG = json.loads(DEVICE_CONFIG.read_bytes())
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "mutants.json"


def found(what: str) -> Mutant:
    return next(mutant for mutant in kills.all_mutants() if re.search(what, mutant.what))


def test_every_mutant_differs_from_the_program_in_one_place() -> None:
    every = kills.all_mutants()
    assert len(every) > 1000
    assert {mutant.operator for mutant in every} == {
        *("constant", "operator", "condition", "statement", "transition", "key", "default", "input"),
        *("checksum", "deparser"),
    }
    for mutant in every[::40]:
        assert mutant.config() != CONFIG, mutant.what


def test_what_has_the_same_value_or_is_overwritten_is_equal_and_the_rest_is_not() -> None:
    equivalence = Equivalence(CONFIG, {"^parser.p4:190": "a reason"})
    for what, reason in (
        (r"^icmp_errors.p4:27: 0xffff is 0xfffe", "the expression has the same value"),
        (r"^flow_hash\d+: without = value \^ seed", "what it changes is overwritten before anybody reads it"),
    ):
        assert equivalence.reason(found(what)) == reason
    assert equivalence.reason(found(r"^hop.p4:47: > is >=")) == ""


def test_verdicts_are_counted_without_those_that_are_equal() -> None:
    verdicts = [
        Verdict("constant", "one", "vectors: full"),
        Verdict("constant", "two", "p4testgen"),
        Verdict("operator", "three", "", "a reason"),
        Verdict("operator", "four", ""),
    ]
    summary = kills.summary(verdicts)
    assert (summary["mutants"], summary["equal"], summary["killed"]) == (4, 1, 2)
    assert summary["killed_share"] == 0.6667
    assert summary["survivors"] == ["operator, four"]
    assert summary["equal_because"] == {"a reason": ["operator, three"]}
    assert summary["by_oracle"] == {"p4testgen": 1, "vectors": 1}


def test_the_oracles_kill_nearly_all_mutants() -> None:
    results = json.loads(RESULTS.read_text())
    assert results["mutants"] == len(kills.all_mutants()), "hmux.p4 has changed: judge its mutants again"
    assert results["killed_share"] >= 0.95
    assert len(results["survivors"]) == results["mutants"] - results["equal"] - results["killed"]


def test_p4testgen_reaches_every_statement_but_those_that_it_cannot() -> None:
    head = testgen.PATH.read_text().split("\n\n")[0]
    missed = [line.removeprefix("#").strip().split()[0] for line in head.splitlines()[2:]]
    # The configuration is always there in its tests, and its meters are green.
    assert {*missed} <= {"admission.p4:12", "icmp_errors.p4:65"}
