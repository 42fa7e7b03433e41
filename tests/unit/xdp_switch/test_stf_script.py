"""The STF language as p4c's bmv2stf.py reads it."""

import pytest

from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.script import Call, ScriptError


def test_commands_are_read_with_their_matches_and_actions() -> None:
    text = """
    # a comment
    add test1 0 data.$valid:0b1 data.f1:0x****0101 "odd name":3/8 c.act(val:0x7f, port:2) = A
    setdefault ethertype_match l2_packet()
    packet 0 0101 FF   # data in groups
    expect 3
    check_counter cnt($A) packets == 1
    wait
    """
    add, default, packet, expect, check, wait = script.read(text)
    assert (add.words, add.label) == (("test1", "0"), "A")
    assert add.matches == (("data.$valid", "0b1"), ("data.f1", "0x****0101"), ("odd name", "3/8"))
    assert add.call == Call("c.act", {"val": "0x7f", "port": "2"})
    assert (default.words, default.call) == (("ethertype_match", ""), Call("l2_packet", {}))
    assert (packet.name, packet.words) == ("packet", ("0", "0101FF"))
    assert expect.words == ("3", "")
    assert check.words == ("cnt($A)", "packets", "==", "1")
    assert wait.name == "wait"


@pytest.mark.parametrize("text", ["packet", "add table", "setdefault", "add"])
def test_a_line_that_lacks_something_is_told(text: str) -> None:
    with pytest.raises(ScriptError, match="line 1"):
        list(script.read(text))


def test_values_mask_and_prefix() -> None:
    assert script.masked("0x1*2") == (0x102, 0xF0F)
    assert script.masked("0b1*") == (2, 2)
    assert script.prefix("0x0a**", 16) == (0x0A00, 8)
    assert script.prefix("0x0a000000/8", 32) == (0x0A000000, 8)
    assert script.prefix("7", 9) == (7, 9)
    with pytest.raises(ScriptError, match="prefix such as 0x"):
        script.masked("12")


@pytest.mark.parametrize(
    ("expected", "packet", "verdict"),
    [
        ("01*2", "0132", True),
        ("01*2", "013201", True),
        ("01*2$", "013201", False),
        ("0132$", "0132", True),
        ("0132", "01", False),
        ("", "", True),
    ],
)
def test_what_is_expected_of_a_packet(expected: str, packet: str, verdict: bool) -> None:
    assert script.agrees(expected, bytes.fromhex(packet)) is verdict
