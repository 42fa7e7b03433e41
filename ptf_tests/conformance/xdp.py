"""The xdp target without ports: frames go through the compiled program by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from finsy.p4entity import decode_entity
from finsy.proto import p4r

from duet_p4.api.trace import PacketTrace, TraceFlow
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.p4runtime.staging import stage
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.tracer import Tracer
from ptf_tests.conformance.program import Counters, Frame, Program, counter_queries, name_counters


class Xdp:
    """The embedded switch, P4Runtime's checks included; see `program.Target`. Needs root."""

    name = "xdp"

    def __init__(self, program: Program, sampling: int = 0) -> None:
        self._sampling = sampling
        self._schema = program.schema
        self._tracer: Tracer | None = None

    def __enter__(self) -> Self:
        self._device = XdpDevice(replays=True, sampling=self._sampling)
        try:
            staged = asyncio.run(stage(self._device, self._schema.get_pipeline_config(), {}))
            self._device.activate(staged.pipeline)
            self._state = staged.forwarding
            assert isinstance(staged.pipeline, XdpPipeline)
            self._pipeline = staged.pipeline
        except BaseException:
            self._device.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._tracer is not None:
            self._tracer.close()
        self._device.close()

    def write(self, updates: Sequence[p4r.Update]) -> None:
        """Write to the tables by P4Runtime."""
        for update in updates:
            self._state.write(update)

    def send(self, frames: Sequence[Frame]) -> list[list[Frame]]:
        """Run frames one after the other, and return for each what would leave."""
        replay = self._pipeline.replay
        return [replay(frame, port) for port, frame in frames]

    @property
    def device(self) -> XdpDevice:
        """The switch, without ports."""
        return self._device

    @property
    def pipeline(self) -> XdpPipeline:
        """The loaded program."""
        return self._pipeline

    def trace(self, frame: Frame, *, detail: bool = False) -> tuple[list[Frame], PacketTrace]:
        """Run a frame through the instrumented variant; return what would leave, and its trace."""
        tracer = self._instrumented()
        tracer.follow(None, 1)
        left = self._pipeline.replay(frame[1], frame[0], tracer)
        (trace,) = tracer.poll(detail=detail)
        return left, trace

    def follow(self, flow: TraceFlow, frames: Sequence[Frame], packets: int) -> list[PacketTrace]:
        """Run frames through the instrumented variant, which follows a flow; return what it has seen."""
        tracer = self._instrumented()
        tracer.follow(flow, packets)
        for port, frame in frames:
            self._pipeline.replay(frame, port, tracer)
        return tracer.poll()

    def _instrumented(self) -> Tracer:
        if self._tracer is None:
            self._tracer = self._pipeline.instrument()
        return self._tracer

    def counters(self) -> Counters:
        """Return every counter that is not zero."""
        queries = (query.encode(self._schema) for query in counter_queries(self._schema))
        read = [
            decode_entity(entity, self._schema) for query in queries for entity in self._state.read(query)
        ]
        return name_counters(self._schema, read)
