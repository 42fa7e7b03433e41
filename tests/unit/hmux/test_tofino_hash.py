"""The flow hashes that p4c-barefoot has compiled are those of P4, eBPF and Python.

What runs here is the compiler's assembly, not a chip: which bits it has each hash unit XOR, with which
polynomial and constants, and what the ALUs add, in which stage. That silicon does so is not tested.
"""

from __future__ import annotations

import re
import zlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4.flow_hash import Flow, flow_hash, tip_hash, underlay_hash
from duet_p4.hmux import tofino
from tests.unit.hmux.assembly import Assembly, crc_rev
from tests.unit.test_flow_hash import GOLDEN

WORD = st.integers(0, 0xFFFF_FFFF)
ADDRESS = st.builds(IPv4Address, WORD)
PORT = st.integers(0, 0xFFFF)
FLOW = st.builds(Flow, ADDRESS, ADDRESS, st.integers(0, 255), PORT, PORT)
UNDERLAY_SEED = 0x9E37_79B9
CHIPS = {chip: (tofino.outputs(chip) / tofino.FLOW_HASH).read_text() for chip in tofino.CHIPS}


def hashes(chip: str, flow: Flow, key: int, seed: int) -> tuple[int, int, int]:
    """Return what picks a VIP's slot, a TIP's, and a next hop's, by the chip's assembly."""
    fields = Assembly(CHIPS[chip]).run(
        {
            "meta.flow.src_addr": int(flow.source),
            "meta.flow.dst_addr": int(flow.destination),
            "meta.flow.protocol": flow.protocol,
            "meta.flow.src_port": flow.source_port,
            "meta.flow.dst_port": flow.destination_port,
            "meta.flow_key": key,
            "meta.underlay_seed": seed,
        }
    )
    return fields["meta.flow_hash"], fields["meta.tip_hash"], fields["meta.underlay_hash"]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("flow", "vip", "tip", "underlay"), GOLDEN)
def test_the_compiled_hashes_are_the_golden_ones(chip, flow, vip, tip, underlay):
    assert hashes(chip, flow, key=0, seed=UNDERLAY_SEED) == (vip, tip, underlay)


@pytest.mark.parametrize("chip", CHIPS)
@given(flow=FLOW, key=WORD, seed=WORD)
@settings(max_examples=25, deadline=None)
def test_the_compiled_hashes_are_pythons_for_every_flow_key_and_seed(chip, flow, key, seed):
    expected = flow_hash(flow, key), tip_hash(flow, key), underlay_hash(flow, seed, key)
    assert hashes(chip, flow, key, seed) == expected


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("0x82608edb", "0x8f6e37a0"),  # Castagnoli's polynomial.
        (r"meta\.flow\.src_port(\(0\.\.7\))?(?![\w(:])", r"meta.flow.dst_port\1"),
        (r"add (\w+), (\w+), (\w+)", r"xor \1, \2, \3"),
        (r"seed: 0x[0-9a-f]+[1-9a-f]", "seed: 0x0"),
        (r"flow_hash_(mix_)?sum\(16\.\.17\) \^ ", ""),
    ],
    ids=["polynomial", "field order", "addition", "constant", "fold"],
)
def test_other_assembly_gives_other_hashes(chip, was, now, monkeypatch):
    other, changes = re.subn(was, now, CHIPS[chip])
    assert changes, f"{was} is nowhere in the assembly: this test would prove nothing"
    monkeypatch.setitem(CHIPS, chip, other)
    found = [hashes(chip, flow, 0, UNDERLAY_SEED) for flow, *_ in GOLDEN]
    assert found != [tuple(expected) for _, *expected in GOLDEN]


@given(st.binary(min_size=13, max_size=13))
def test_the_shift_register_is_a_crc_32(message):
    linear = crc_rev(int.from_bytes(message), 8 * len(message), 0x8260_8EDB)
    assert linear ^ zlib.crc32(bytes(len(message))) == zlib.crc32(message)
