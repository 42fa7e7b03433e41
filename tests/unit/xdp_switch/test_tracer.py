"""What is read of the records of an instrumented variant."""

from __future__ import annotations

import pytest

from duet_p4.xdp_switch.compiler import compile_program
from duet_p4.xdp_switch.compiler.tracing import Kind
from duet_p4.xdp_switch.tracer import _Reader
from ptf_tests.conformance.programs import PROGRAMS

ETHERNET, TRACE, LABEL, IPV6 = 14, 4, 4, 40


def reader() -> _Reader:
    config = PROGRAMS["labels"].device_config.read_bytes()
    return _Reader(compile_program(config, cpus=2, traced=True), lambda *_: None)


def record(reader: _Reader, kind: Kind, length: int, *headers: str) -> bytes:
    """Return what a packet with these headers has written, of so many bytes."""
    content = bytearray(reader.size)

    def put(member: str, value: int, size: int) -> None:
        at = reader._places[f"m.{member}"]
        content[at : at + size] = value.to_bytes(size, "little")

    put("trace_packet", 1, 8)
    put("trace_kind", kind, 4)
    put("trace_a", length, 8)
    valid = sum(1 << reader._program.headers[name].index for name in headers)
    content[reader._places["valid"] : reader._places["valid"] + 8] = valid.to_bytes(8, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("length", "whole"),
    [
        (ETHERNET + TRACE + 2 * LABEL + IPV6, ["ethernet", "trace", "labels[0]", "labels[1]", "ipv6"]),
        (ETHERNET + TRACE + 2 * LABEL + IPV6 - 1, ["ethernet", "trace", "labels[0]", "labels[1]"]),
        (ETHERNET + TRACE + LABEL + 1, ["ethernet", "trace", "labels[0]"]),
        (ETHERNET, ["ethernet"]),
    ],
)
def test_of_a_packet_that_was_cut_off_the_headers_are_told_that_left_whole(
    length: int, whole: list[str]
) -> None:
    one = reader()
    headers = ("ethernet", "trace", "labels[0]", "labels[1]", "ipv6")
    start, sent = record(one, Kind.START, 200), record(one, Kind.SENT, length, *headers)
    trace = one.trace([start, sent], True)
    assert trace.verdict == "sent"
    assert list(dict.fromkeys(value.name.partition(".")[0] for value in trace.headers_out)) == whole
