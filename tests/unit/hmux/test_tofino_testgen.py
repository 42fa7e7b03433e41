"""Tests that p4testgen made of hmux_tna.p4: of which sources they are, and what is made and told of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from duet_p4.hmux.pipeline import P4_SOURCES
from ptf_tests.conformance import testgen, testgen_tofino, tofino_tests
from ptf_tests.conformance.testgen_tofino import Again, again_of, joined, translated
from ptf_tests.conformance.tofino_tests import Vector

RECORDED = tofino_tests.read()
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
TUNNELED, ROUTED = ETHERNET + "45" + "00" * 50, ETHERNET + "45" + "11" * 50
CONFIGURED = (
    "setdefault HmuxIngress.admission.switch_table "
    "HmuxIngress.admission.configure(loopback:0x01,flow_key:0x02)"
)
OTHERWISE = CONFIGURED.replace("0x01", "0x03")
HOST = (
    "add HmuxIngress.vips.host_table dst_addr:0x00000000 HmuxIngress.vips.tip(first_slot:0x0,slot_count:0x1)"
)


def route(group):
    return (
        "add HmuxIngress.routing.route_table 1 dst_addr:0b******************************** "
        f"HmuxIngress.routing.to_nexthop_group(nexthop_group:0x{group})"
    )


GROUP = f"03{PLAIN[2:]}"
AGAIN = "a packet to a VIP or TIP"
TO_CPU = (510, bytes.fromhex(f"0400{PLAIN}"))
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
    told = tofino_tests.summary(RECORDED)
    assert len(set(RECORDED.tests)) == len(RECORDED.tests) == sum(told.values())
    assert set(told) <= {"the same", "IPv4 options", "ICMP errors", AGAIN}
    for chip in testgen_tofino.CHIPS:
        own = [test for test in RECORDED.tests if test.chip == chip]
        assert sum(not test.row for test in own) >= 40
        assert sum(test.leaves is not None for test in own) >= 20
    assert all(test.leaves is None or test.leaves[0] != 68 for test in RECORDED.tests)
    assert tofino_tests.PATH.stat().st_size < 100_000


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
        (Vector((), 8, PLAIN, (510, f"2200{PLAIN}$"), "tofino1"), [TO_CPU], AGAIN),
        (Vector((), 8, GROUP, None, "tofino1"), [TO_CPU], AGAIN),
    ],
)
def test_what_is_alike_or_of_its_row_is_not_told(test, left, row):
    assert tofino_tests.row_of(test, left) == row
    assert list(tofino_tests.differences([(replace(test, row=row), left)])) == []


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
        (Vector((), 8, PLAIN, (510, f"2200{PLAIN}$")), [TO_CPU]),
        (Vector((), 8, PLAIN, (510, f"2180{PLAIN}$"), "tofino1"), [TO_CPU]),
        (Vector((), 8, PLAIN, (510, f"2200{GROUP}$"), "tofino1"), [TO_CPU]),
        (Vector((), 8, PLAIN, None, "tofino1"), [TO_CPU]),
    ],
    ids=[
        *("nothing", "two", "port", "bytes", "no error", "row that is none", "error in place of a packet"),
        *("one pass", "told another port", "another frame", "for nobody"),
    ],
)
def test_what_differs_is_told(test, left):
    (told,) = tofino_tests.differences([(test, left)])
    assert f"packet {test.port}" in told


@pytest.mark.parametrize("kind", testgen_tofino.Kind)
@pytest.mark.parametrize("chip", testgen_tofino.CHIPS)
def test_the_sources_are_those_that_p4testgen_is_prepared_for(tmp_path, chip, kind):
    folder = prepared(tmp_path / chip, chip, kind)
    parser = (folder / "tna" / "parser.p4").read_text()
    assert parser.count("!= CHECKSUM(sum)") == 2
    assert "update(" not in parser
    assert lines(folder) == lines(prepared(tmp_path / "all", chip))


def test_a_packet_that_comes_again_is_the_one_that_was_sent():
    first = Vector((CONFIGURED, HOST, route("1")), 8, PLAIN, (68, f"{TUNNELED}$"), "tofino1")
    assert again_of(first) == Again(TUNNELED, {"loopback": "0x01", "flow_key": "0x02"})
    second = Vector((OTHERWISE, route("2")), 68, TUNNELED, (9, f"{ROUTED}$"), "tofino1")
    both = Vector((CONFIGURED, HOST, route("2")), 8, PLAIN, (9, f"{ROUTED}$"), "tofino1")
    assert joined(first, second) == both
    with pytest.raises(testgen.TestgenError, match="another frame"):
        joined(first, replace(second, frame=PLAIN))
    with pytest.raises(testgen.TestgenError, match="a known frame"):
        again_of(replace(first, leaves=(68, f"{TUNNELED[:-1]}*$")))
    with pytest.raises(testgen.TestgenError, match="configured"):
        again_of(replace(first, entries=(HOST,)))


def test_the_program_is_told_which_packet_comes_again(tmp_path):
    again = Again(TUNNELED, {"flow_key": "0x02"})
    folder = prepared(tmp_path, "tofino1", testgen_tofino.Kind.ALL, again)
    bits = 4 * len(TUNNELED)
    parser, admission, routing, main = (
        (folder / name).read_text()
        for name in ("tna/parser.p4", "include/admission.p4", "include/routing.p4", "hmux_tna.p4")
    )
    assert f"testgen_assume(packet.lookahead<bit<{bits}>>() == {bits}w0x{TUNNELED});" in parser
    assert "testgen_assume(meta.flow_key == 0x02);" in admission
    assert "backstop_table.apply()" not in routing
    assert "testgen_assume(INGRESS_PORT == 68);" in main
    assert lines(folder) == lines(prepared(tmp_path / "first", "tofino1"))


def prepared(folder, chip, *of):
    shutil.copytree(P4_SOURCES, folder, ignore=shutil.ignore_patterns("build"), dirs_exist_ok=True)
    testgen_tofino.prepare(folder, testgen_tofino.CHIPS[chip], *of)
    return folder


def lines(folder):
    """How many lines each file has: a statement is known by its line."""
    return {path.relative_to(folder): path.read_text().count("\n") for path in folder.rglob("*.p4")}
