"""The instrumented variant goes the ways that BMv2 went, and tells them as they were."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator

import grpc
import pytest

from duet_p4 import bmv2
from duet_p4.api.trace import PacketTrace, Traced, TraceFlow, TraceRequest
from duet_p4.xdp_switch import trace_service
from duet_p4.xdp_switch.compiler import compile_program
from ptf_tests.conformance import paths, vectors
from ptf_tests.conformance.bmv2 import SilentError
from ptf_tests.conformance.programs import PROGRAMS
from ptf_tests.conformance.xdp import Xdp

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
TRACED = [name for name in PROGRAMS if name not in paths.UNTRACED]
EVERY = 4
"""Of one frame in so many, all that traces tell is compared."""


@pytest.mark.parametrize("name", TRACED)
def test_the_ways_are_of_the_program_as_it_is_compiled(name: str) -> None:
    recorded = paths.read(paths.path_of(PROGRAMS[name]))
    assert recorded.digest == PROGRAMS[name].digest(), (
        f"{name} has changed since its ways were recorded: run `make vectors` where BMv2 is on PATH"
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_nobody_traces_has_nothing_of_it(name: str) -> None:
    source = compile_program(PROGRAMS[name].device_config.read_bytes(), cpus=2).source
    assert not re.findall(r"\btrace_\w*|\bTRACE\w*|trace\.h", source)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("name", TRACED)
def test_a_traced_packet_goes_the_way_it_went_on_bmv2_and_as_much_is_told_of_it(name: str) -> None:
    program = PROGRAMS[name]
    recording = max(vectors.read(vectors.path_of(program)).recordings, key=lambda r: len(r.state.updates))
    # `make vectors` compares all that is told of all frames.
    told = paths.compare(program, recording, paths.read(paths.path_of(program)), every=EVERY)
    assert not told, "\n".join(told)


@pytest.mark.skipif(not bmv2.is_installed(), reason=f"{bmv2.MISSING}: nothing to compare with")
def test_bmv2_tells_what_it_told_when_its_ways_were_recorded() -> None:
    program = PROGRAMS["labels"]
    recording = vectors.read(vectors.path_of(program)).recordings[-1]
    expected = paths.read(paths.path_of(program)).told[recording.state.name]
    try:
        traces = paths.observe(program, recording)
    except SilentError as silent:
        pytest.skip(str(silent))
    assert paths.digests_of(program, traces) == expected


@pytest.mark.root
@needs_root
def test_a_trace_tells_key_entry_action_changes_line_and_frames() -> None:
    recording = vectors.read(vectors.path_of(PROGRAMS["hmux"])).recordings[0]
    ways = paths.read(paths.path_of(PROGRAMS["hmux"])).by_state[recording.state.name]
    case, left = next(
        (case, left)
        for case, left, way in zip(recording.cases, recording.expected, ways, strict=True)
        if left and any("tunneling_table hit" in step for step in way)
    )
    with Xdp(PROGRAMS["hmux"]) as target:
        target.write(recording.state.updates)
        _, trace = target.trace((case.port, case.frame), detail=True)
    assert trace.frame == case.frame[:256].hex() and trace.length == len(case.frame)
    tunnel = next(step for step in trace.steps if step.name.endswith("tunneling_table"))
    (key,) = tunnel.key
    assert key.wanted == key.value and key.kind == "exact"
    assert tunnel.action is not None and tunnel.action.endswith("encapsulate")
    assert tunnel.line is not None and tunnel.line.file.endswith("tunneling.p4")
    (dip,) = tunnel.arguments
    changed = {change.field: change for change in tunnel.changes}
    assert changed["outer_ipv4"].after == "0x1" and changed["outer_ipv4.dst_addr"].after == dip.value
    assert {v.name: v.value for v in trace.headers_out}["outer_ipv4.dst_addr"] == dip.value
    assert (trace.egress, trace.frame_out) == (str(left[0][0]), left[0][1][:256].hex())


@pytest.mark.root
@needs_root
def test_only_packets_of_the_flow_are_traced_and_no_more_than_wanted() -> None:
    recording = vectors.read(vectors.path_of(PROGRAMS["l3_router"])).recordings[0]
    with Xdp(PROGRAMS["l3_router"]) as target:
        target.write(recording.state.updates)
        frame = bytes.fromhex(
            "0200000000010200000000020800"
            "4500001c000000004011" + "0000" + "0a000001" + "0a000002" + "1388" + "0050" + "00080000"
        )
        back = frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]
        other = frame[:34] + b"\x13\x89" + frame[36:]
        flow = TraceFlow(source="10.0.0.1", destination="10.0.0.2", protocol=17, source_port=5000)
        seen = target.follow(flow, [(1, frame), (1, other), (1, back), (1, frame)], packets=2)
    assert [trace.frame for trace in seen] == [frame.hex(), back.hex()]


@pytest.mark.root
@needs_root
def test_a_call_follows_packets_and_leaves_the_program_as_it_was() -> None:
    with Xdp(PROGRAMS["l2_switch"]) as target:
        told = asyncio.run(_call(target))
        assert target.device.tracer is None
    assert told[0] == b""
    assert PacketTrace.model_validate_json(told[1]).verdict in ("sent", "dropped")
    assert json.loads(told[2]) == Traced(packets=(), ended=True).model_dump(mode="json")


async def _call(target: Xdp) -> list[bytes]:
    """Trace one packet by gRPC; the client then sends no more."""
    server = grpc.aio.server()
    trace_service.add_to(server, target.device)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told: list[bytes] = []
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            seen = asyncio.Event()

            async def requests() -> AsyncIterator[bytes]:
                yield TraceRequest(flow=TraceFlow(), seconds=30).model_dump_json().encode()
                await seen.wait()

            call = channel.stream_stream(f"/{trace_service.SERVICE}/Follow", None, None)(requests())
            async for message in call:
                told.append(message)
                if not message:
                    tracer = target.device.tracer
                    assert tracer is not None
                    tracer.follow(None, 1)
                    target.pipeline.replay(bytes(64), 1, tracer)
                    seen.set()
    finally:
        await server.stop(None)
    return told
