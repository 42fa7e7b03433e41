"""Tests that p4testgen made of hmux_tna.p4: of which sources they are, and what is made and told of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from duet_p4.hmux.pipeline import P4_SOURCES
from ptf_tests.conformance import testgen, testgen_tofino
from ptf_tests.conformance.testgen_tofino import Vector, translated

RECORDED = testgen_tofino.read()
FOUND = """
# Traces
add pipe.HmuxIngress.admission.punt_table ether_type:0x0806 pipe.HmuxIngress.admission.punt()
add pipe.HmuxIngress.admission.lengths.take_least x:0x1 pipe.HmuxIngress.admission.lengths.take()

packet 8 FFFFFFFFFFFF0000000000000806
expect 0 0400FFFFFFFFFFFF00000000000008**$
"""
PUNTED = Vector(
    ("add HmuxIngress.admission.punt_table ether_type:0x0806 HmuxIngress.admission.punt()",),
    8,
    "FFFFFFFFFFFF0000000000000806",
    (510, "0400FFFFFFFFFFFF00000000000008**$"),
)
FRAME = bytes.fromhex("0400ffffffffffff0000000000000806")
ETHERNET = "02000000000102000000000208 00".replace(" ", "")
OPTIONED = ETHERNET + "46" + "00" * 30
PLAIN = ETHERNET + "45" + "00" * 30
ERROR = bytes.fromhex(ETHERNET + "45" + "00" * 8 + "01" + "00" * 10 + "0b00")


def test_they_are_of_the_sources():
    assert RECORDED.digest == testgen_tofino.digest(), (
        "the sources changed: run `python -m ptf_tests.conformance testgen-tofino`"
    )


def test_a_comment_makes_no_other_sources_and_a_statement_does(tmp_path, monkeypatch):
    folder = tmp_path / "p4src"
    shutil.copytree(P4_SOURCES, folder, ignore=shutil.ignore_patterns("build"))
    monkeypatch.setattr(testgen_tofino, "P4_SOURCES", folder)
    monkeypatch.setattr(testgen_tofino.tofino, "SOURCE", folder / "hmux_tna.p4")
    before = testgen_tofino.digest()
    for changed in ("include/v1model_target.p4", "hmux.p4", "tna/target.p4"):
        path = folder / changed
        path.write_text(f"// Said otherwise.\n{path.read_text()}")
        assert testgen_tofino.digest() == before
    for changed in ("hmux_tna.p4", "include/routing.p4", "include/sizes.p4", "tna/verdict.p4"):
        path = folder / changed
        path.write_text(f"{path.read_text()}\nconst bit<1> SAID_MORE = 1;\n")
        assert testgen_tofino.digest() != before
        before = testgen_tofino.digest()


def test_most_say_that_both_programs_do_the_same():
    told = testgen_tofino.summary(RECORDED)
    assert len(set(RECORDED.tests)) == len(RECORDED.tests) == sum(told.values())
    assert set(told) <= {"the same", "IPv4 options", "ICMP errors"}
    assert told["the same"] >= 40
    assert sum(test.leaves is not None for test in RECORDED.tests) >= 20
    assert testgen_tofino.PATH.stat().st_size < 100_000


def test_a_test_of_the_tofino_program_becomes_one_of_hmux():
    assert translated(FOUND) == PUNTED
    with pytest.raises(testgen.TestgenError, match="one packet is wanted, not packet 9"):
        translated(FOUND + "packet 9 00")
    with pytest.raises(testgen.TestgenError, match="no packet"):
        translated("# nothing")


@pytest.mark.parametrize(
    ("test", "left", "row"),
    [
        (PUNTED, [(510, FRAME)], ""),
        (Vector((), 8, OPTIONED, None), [], "IPv4 options"),
        (Vector((), 8, PLAIN, None), [(8, ERROR)], "ICMP errors"),
        (Vector((), 8, PLAIN, None), [], ""),
    ],
)
def test_what_is_alike_or_of_its_row_is_not_told(test, left, row):
    assert testgen_tofino.row_of(test, left) == row
    assert list(testgen_tofino.differences([(replace(test, row=row), left)])) == []


@pytest.mark.parametrize(
    ("test", "left"),
    [
        (PUNTED, []),
        (PUNTED, [(510, FRAME), (8, FRAME)]),
        (PUNTED, [(9, FRAME)]),
        (PUNTED, [(510, FRAME[:-3] + bytes(3))]),
        (Vector((), 8, PLAIN, None), [(9, ERROR)]),
        (Vector((), 8, PLAIN, None, row="ICMP errors"), []),
        (Vector((), 8, PLAIN, (9, PLAIN)), [(8, ERROR)]),
    ],
    ids=["nothing", "two", "port", "bytes", "no error", "row that is none", "error in place of a packet"],
)
def test_what_differs_is_told(test, left):
    (told,) = testgen_tofino.differences([(test, left)])
    assert f"packet {test.port}" in told


@pytest.mark.parametrize("kind", testgen_tofino.Kind)
@pytest.mark.parametrize("chip", testgen_tofino.CHIPS)
def test_the_sources_are_those_that_p4testgen_is_prepared_for(tmp_path, chip, kind):
    folder = tmp_path / "p4src"
    shutil.copytree(P4_SOURCES, folder, ignore=shutil.ignore_patterns("build"))
    testgen_tofino.prepare(folder, testgen_tofino.CHIPS[chip], kind)
    parser = (folder / "tna" / "parser.p4").read_text()
    assert parser.count("!= CHECKSUM(sum)") == 2
    assert "update(" not in parser
