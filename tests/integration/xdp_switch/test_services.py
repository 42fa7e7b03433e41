"""services.p4: value sets, direct meters, ageing entries, digests, random numbers, assertions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4.xdp_switch.dataplane import Call, NoRoomError
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.meters import MeterRates
from duet_p4.xdp_switch.pipeline import XdpPipeline

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]

BUILD = Path(__file__).parents[2] / "p4" / "build"
TABLE = "ServicesIngress.source_table"
SET = "ServicesParser.trusted_types"
SOURCE = 0x020000000002


@pytest.fixture
def pipeline() -> Iterator[XdpPipeline]:
    """The program, loaded."""
    info = text_format.Parse((BUILD / "services.p4info.txtpb").read_text(), p4i.P4Info())
    device = XdpDevice(replays=True)
    try:
        staged = device.stage((BUILD / "services.json").read_bytes(), info)
        device.activate(staged)
        yield staged
    finally:
        device.close()


def request(**fields: int) -> bytes:
    """A frame; fields are those of request_t, ether_type and src_addr."""
    names = ("trusted", "colour", "own_colour", "low", "high", "drawn", "asserted", "meter")
    source = fields.get("src_addr", SOURCE).to_bytes(6, "big")
    kind = fields.get("ether_type", 0x1234).to_bytes(2, "big")
    return bytes(6) + source + kind + bytes(fields.get(name, 0) for name in names) + bytes(20)


def answer(pipeline: XdpPipeline, frame: bytes, port: int = 1) -> dict[str, int]:
    ((egress, sent),) = pipeline.replay(frame, port)
    assert egress == 2
    names = ("trusted", "colour", "own_colour", "low", "high", "drawn", "asserted", "meter")
    return dict(zip(names, sent[14:22], strict=True))


def test_a_value_set_has_the_members_it_was_given_last(pipeline: XdpPipeline) -> None:
    members = pipeline.value_sets[SET]
    assert members.size == 4
    assert answer(pipeline, request(ether_type=0x1234))["trusted"] == 0
    members.replace([(0x1234,), (0x5678,)])
    assert [answer(pipeline, request(ether_type=t))["trusted"] for t in (0x1234, 0x5678, 9)] == [1, 1, 0]
    members.replace([(9,)])
    assert [answer(pipeline, request(ether_type=t))["trusted"] for t in (0x1234, 0x5678, 9)] == [0, 0, 1]
    with pytest.raises(NoRoomError, match="room for 4 members"):
        members.replace([(n,) for n in range(5)])
    assert answer(pipeline, request(ether_type=9))["trusted"] == 1, "it is as it was"


def test_a_direct_meter_colours_the_packets_of_its_entry(pipeline: XdpPipeline) -> None:
    key = (SOURCE,)
    pipeline.insert(TABLE, key, 0, Call("ServicesIngress.known", ()))
    assert answer(pipeline, request())["colour"] == 0
    rates = MeterRates(cir=1, cburst=2, pir=1, pburst=3)
    pipeline.write_direct_meter(TABLE, key, 0, rates)
    assert pipeline.read_direct_meter(TABLE, key, 0) == rates
    assert [answer(pipeline, request())["colour"] for _ in range(5)] == [0, 0, 1, 2, 2]
    pipeline.modify(TABLE, key, 0, Call("ServicesIngress.unknown", ()))
    assert answer(pipeline, request())["colour"] == 2, "a changed entry keeps its meter"
    pipeline.delete(TABLE, key, 0)
    pipeline.insert(TABLE, key, 0, Call("ServicesIngress.known", ()))
    assert pipeline.read_direct_meter(TABLE, key, 0) is None, "a fresh entry has none"
    assert answer(pipeline, request())["colour"] == 0


def test_a_meter_of_bytes_takes_as_many_tokens_as_a_packet_has_bytes(pipeline: XdpPipeline) -> None:
    frame = request(meter=3)
    meter = pipeline.meters["ServicesIngress.rates"]
    meter.configure(3, MeterRates(1, 2 * len(frame), 1, 3 * len(frame)))
    assert [answer(pipeline, frame)["own_colour"] for _ in range(5)] == [0, 0, 1, 2, 2]
    assert answer(pipeline, request(meter=2))["own_colour"] == 0


def test_an_address_is_learned_until_there_is_an_entry(pipeline: XdpPipeline) -> None:
    answer(pipeline, request(), port=7)
    assert pipeline.digests.poll() == [("learned_t", (SOURCE, 7))]
    pipeline.insert(TABLE, (SOURCE,), 0, Call("ServicesIngress.known", ()))
    answer(pipeline, request(), port=7)
    assert pipeline.digests.poll() == []


def test_a_digest_of_a_tuple_has_the_name_that_the_p4info_made_up() -> None:
    """p4c calls it `digest_0` in the P4Info, and `tuple_0` in the JSON."""
    info = text_format.Parse((BUILD / "services.p4info.txtpb").read_text(), p4i.P4Info())
    config = (BUILD / "services.json").read_bytes()
    digest = info.digests[0]
    digest.preamble.name = "digest_0"
    members = info.type_info.structs["learned_t"].members
    for member in members:
        digest.type_spec.tuple.members.add(bitstring=member.type_spec.bitstring)
    device = XdpDevice(replays=True)
    try:
        pipeline = device.stage(config.replace(b'"learned_t"', b'"tuple_0"'), info)
        device.activate(pipeline)
        answer(pipeline, request(), port=7)
        assert pipeline.digests.poll() == [("digest_0", (SOURCE, 7))]
    finally:
        device.close()


def test_digests_that_nobody_reads_are_lost_and_counted(pipeline: XdpPipeline) -> None:
    for _ in range(9000):
        pipeline.replay(request(), 7)
    waiting = pipeline.digests.poll()
    assert pipeline.digests.lost == 9000 - len(waiting) > 0
    answer(pipeline, request(), port=8)
    assert pipeline.digests.poll() == [("learned_t", (SOURCE, 8))]


def test_an_entry_tells_how_long_it_was_idle(pipeline: XdpPipeline) -> None:
    pipeline.insert(TABLE, (SOURCE,), 0, Call("ServicesIngress.known", ()))
    key = [((SOURCE,), 0)]
    while pipeline.idle_seconds(TABLE, key)[0] < 0.05:
        time.sleep(0.01)
    answer(pipeline, request())
    assert pipeline.idle_seconds(TABLE, key)[0] < 0.05


def test_random_numbers_are_within_their_bounds_and_spread(pipeline: XdpPipeline) -> None:
    drawn = {answer(pipeline, request(low=10, high=13))["drawn"] for _ in range(200)}
    assert drawn == {10, 11, 12, 13}
    assert {answer(pipeline, request(low=5, high=5))["drawn"] for _ in range(10)} == {5}


def test_a_packet_that_fails_an_assertion_is_dropped_and_counted(pipeline: XdpPipeline) -> None:
    assert pipeline.replay(request(asserted=1), 1) == []
    assert pipeline.drops()["assertion"] == 1
    assert answer(pipeline, request())["asserted"] == 0
