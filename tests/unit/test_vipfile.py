"""The operator's VIP file."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address

import networkx as nx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duet_p4.model import Vip
from mininet_topos.fattree import FatTree, fattree
from mininet_topos.testbed import vipfile
from mininet_topos.testbed.vipfile import StatedVip, VipFileError

Parse = Callable[[str], list[StatedVip]]


@pytest.fixture(scope="module")
def paper() -> nx.Graph:
    return fattree()


@pytest.fixture
def parse(paper: nx.Graph) -> Parse:
    return lambda text: vipfile.parse(text, paper, "vips.yaml")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + of] * 10)}]\n" for of, name in zip("abcde", "bcdef", strict=True)
)


def test_the_example_shows_every_feature(paper: nx.Graph) -> None:
    vips: dict[str | None, Vip] = {
        stated.vip.name: stated.vip for stated in vipfile.read(vipfile.EXAMPLE, paper)
    }
    assert len(vips["plain"].dips) == 2
    assert [group.port for group in vips["ports"].ports] == [80, 21]
    assert [dip.weight for dip in vips["weighted"].dips] == [3, 1, 1]
    assert len(vips["large"].dips) == 34 * 16
    assert vips["snat"].snat
    assert vips["checked"].health is not None


def test_a_prefix_stands_for_every_address_in_it(parse: Parse) -> None:
    (stated,) = parse("vips: [{address: 10.0.0.1, dips: [100.1.1.17, {address: 100.1.1.32/31, weight: 2}]}]")
    assert [(str(dip.address), dip.weight) for dip in stated.vip.dips] == [
        ("100.1.1.17", 1),
        ("100.1.1.32", 2),
        ("100.1.1.33", 2),
    ]


def test_a_switch_may_be_stated(parse: Parse) -> None:
    stated = parse(
        "vips:\n"
        "  - {address: 10.0.0.1, switch: agg2, dips: [100.1.1.17]}\n"
        "  - {address: 10.0.0.2, switch: smux, dips: [100.1.1.17]}\n"
        "  - {address: 10.0.0.3, dips: [100.1.1.17]}\n"
    )
    assert [entry.switch for entry in stated] == ["agg2", "smux", None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vips: [", "line 1: expected the node content"),
        ("", "line 1: expected one key, `vips`"),
        ("vips: {}", "line 1: expected one key, `vips`"),
        ("vips: []\nmore: 1", "line 1: expected one key, `vips`"),
        ("vips:\n  - hello", "line 2: expected a VIP with `address` and `dips`, not 'hello'"),
        ("vips:\n  - dips: [100.1.1.17]", "line 2: VIP (no address): address: Field required"),
        ("vips:\n  - address: 10.0.0.1\n    dips: []", "line 2: VIP 10.0.0.1 has no DIPs"),
        (
            "vips:\n  - address: 10.0.0.1\n    dips:\n      - 100.1.1.17\n      - 100.1.1.300",
            "line 5: VIP 10.0.0.1: dips.1.address: Input is not a valid IPv4 address, not '100.1.1.300'",
        ),
        ("vips:\n  - address: 10.0.0.1\n    dips:\n      - 100.1.1.17/33", "line 4: DIPs 100.1.1.17/33"),
        ("vips:\n  - address: 10.0.0.1\n    dips:\n      - 0.0.0.0/0", "line 4: DIPs 0.0.0.0/0: a prefix of"),
        (
            "vips:\n  - address: 10.0.0.1\n    dips: [100.1.1.17]\n    colour: red",
            "line 4: VIP 10.0.0.1: colour: Extra inputs are not permitted, not 'red'",
        ),
        (
            "vips:\n  - address: 10.0.0.1\n    dips: [{address: 100.1.1.17, weight: -1}]",
            "line 3: VIP 10.0.0.1: dips.0.weight: Input should be greater than or equal to 0, not -1",
        ),
        (
            "vips:\n  - address: 10.0.0.1\n    address: 10.0.0.2\n    dips: [100.1.1.17]",
            "line 3: address is stated twice",
        ),
        (
            "vips:\n  - {address: 10.0.0.1, dips: [100.1.1.17]}\n  - {address: 10.0.0.1, dips: [100.1.1.17]}",
            "line 3: VIP 10.0.0.1 is stated already, on line 2",
        ),
        (
            "vips:\n  - {address: 10.1.0.1, dips: [100.1.1.17]}",
            "line 2: VIP 10.1.0.1 is not within 10.0.0.0/16",
        ),
        (
            "vips:\n  - {address: 10.0.0.1, dips: [100.9.9.9]}",
            "line 2: VIP 10.0.0.1: no server has the address 100.9.9.9",
        ),
        (
            "vips:\n  - {address: 10.0.0.1, switch: tor9, dips: [100.1.1.17]}",
            "line 2: VIP 10.0.0.1: there is no switch 'tor9'",
        ),
        ("vips:\n  - &a [*a]", "nested too deeply"),
        (BOMB, "aliases repeat more than 100,000 values"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(parse: Parse, text: str, says: str) -> None:
    with pytest.raises(VipFileError) as refused:
        parse(text)
    assert says in str(refused.value)
    assert str(refused.value).startswith("vips.yaml, line ")


def test_every_wrong_line_is_named_at_once(parse: Parse) -> None:
    with pytest.raises(VipFileError) as refused:
        parse("vips:\n  - {address: 10.0.0.1, dips: [x]}\n  - {address: y, dips: [100.1.1.17]}")
    assert "line 2" in str(refused.value)
    assert "line 3" in str(refused.value)


def test_a_prefix_without_servers_is_named_once_with_the_addresses_there_are(parse: Parse) -> None:
    with pytest.raises(VipFileError) as refused:
        parse("vips:\n  - address: 10.0.0.1\n    dips:\n      - 100.1.1.17\n      - 100.9.1.0/24")
    assert str(refused.value) == (
        "vips.yaml, line 5: VIP 10.0.0.1: no server has the address 100.9.1.0, 100.9.1.1, 100.9.1.2 and 253 "
        "more; DIPs are 100.1.1.16-100.1.1.159, 100.1.2.16-100.1.2.159, 100.2.1.16-100.2.1.143, "
        "100.2.2.16-100.2.2.143"
    )


def test_a_file_that_is_not_there_is_named(paper: nx.Graph, tmp_path: vipfile.Path) -> None:
    with pytest.raises(VipFileError, match=r"gone\.yaml: No such file"):
        vipfile.read(tmp_path / "gone.yaml", paper)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!0", "line 1: '' is no !0"),
        ("vips:\n  - address: 2001-13-01", "line 2: '2001-13-01' is no timestamp"),
        ("vips:\n  - address: 10.0.0.1\n    name: !!int x", "line 3: 'x' is no int"),
    ],
)
def test_a_value_that_is_none_of_its_kind_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(VipFileError, match=re.escape(said)):
        vipfile.parse(text, _SMALL)


@given(st.text(max_size=200))
@example("!0")
def test_no_text_makes_it_crash(text: str) -> None:
    try:
        vipfile.parse(text, _SMALL)
    except VipFileError as error:
        assert "line" in str(error)


_SMALL = fattree(FatTree(containers=1, servers=1, dip_servers=1, smux_tors=()))


def test_only_servers_with_dips_can_be_named(paper: nx.Graph) -> None:
    dips = vipfile.dip_addresses(paper)
    assert dips[IPv4Address("100.1.1.17")] == "server1"
    assert IPv4Address("100.1.1.241") not in dips, "server 15 of ToR 1 is none of the 34"
