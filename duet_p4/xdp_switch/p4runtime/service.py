"""The P4Runtime service of one device, on one asyncio loop beside its packet I/O.

The methods are the RPCs without gRPC: what is refused is raised as P4RuntimeError. Writes, Reads and changes
of the pipeline or the primary take `turns`; a large Write lets packets through every `TURN` updates.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

from finsy.proto import U128, p4r

from duet_p4.xdp_switch.dataplane import Device
from duet_p4.xdp_switch.p4runtime.arbitration import Arbitration, Notification
from duet_p4.xdp_switch.p4runtime.batch import TURN, Batch, Results
from duet_p4.xdp_switch.p4runtime.errors import (
    BatchError,
    P4RuntimeError,
    failed_precondition,
    invalid_argument,
    not_found,
    permission_denied,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.notifications import Notifications
from duet_p4.xdp_switch.p4runtime.packet_io import stream_error
from duet_p4.xdp_switch.p4runtime.pipeline_config import PipelineConfig
from duet_p4.xdp_switch.p4runtime.rollback import apply_or_roll_back
from duet_p4.xdp_switch.p4runtime.staging import Staged
from duet_p4.xdp_switch.p4runtime.stream import Stream
from duet_p4.xdp_switch.p4runtime.turns import Turns

API_VERSION = "1.5.0"
READ_BATCH = 1024
"""Entities in one ReadResponse."""
_END_S = 0.05
_REARM_S, _REARM_SHARE = 0.01, 10
PACKETS_AT_ONCE = 64

_log = logging.getLogger(__name__)


class P4RuntimeService:
    """The P4Runtime RPCs for one device."""

    def __init__(self, device: Device, device_id: int) -> None:
        self._device = device
        self._device_id = device_id
        self._turns = Turns()
        self._arbitration: Arbitration[Stream] = Arbitration(device_id)
        self._watched: list[int] = []
        self._notifications = Notifications(self._tell)
        self._rearming: asyncio.TimerHandle | None = None
        self._rearming_took = 0.0
        self.streams: set[asyncio.Task[object]] = set()
        self.config = PipelineConfig(device, self._turns, self._before_change, self._after_change)

    def start(self) -> None:
        """Begin to pass packets on; call it on the loop that serves the RPCs."""
        loop = asyncio.get_running_loop()
        for fd, callback in (
            (self._device.packet_in_fd, self._pass_packets_in),
            (self._device.port_events_fd, self._ports_changed),
        ):
            if fd is not None:
                loop.add_reader(fd, callback)
                self._watched.append(fd)
        self._notifications.watch(self.config.running)

    def stop(self) -> None:
        """Pass no more packets on."""
        if self._rearming is not None:
            self._rearming.cancel()
            self._rearming = None
        self._notifications.watch(None)
        for fd in self._watched:
            asyncio.get_running_loop().remove_reader(fd)
        self._watched.clear()

    async def end_streams(self) -> None:
        """End all streams, which gRPC would cut off, and complain."""
        while self.streams:
            for task in self.streams:
                task.cancel()
            await asyncio.wait(set(self.streams), timeout=_END_S)

    async def set_pipeline(self, action: int, config: p4r.ForwardingPipelineConfig | None) -> None:
        """Carry out a SetForwardingPipelineConfig of the operator's, whoever is primary."""
        await self.config.set(action, config, lambda: None)

    async def write(self, request: p4r.WriteRequest) -> p4r.WriteResponse:
        """Apply a batch of updates; each one succeeds or is refused for itself."""
        self._check_primary(request)
        self.config.forwarding()
        if request.atomicity not in p4r.WriteRequest.Atomicity.values():
            raise invalid_argument(f"atomicity {request.atomicity} does not exist")
        if request.atomicity == p4r.WriteRequest.DATAPLANE_ATOMIC:
            results = await self.config.write_at_once(
                request.updates, request.role, lambda: self._check_primary(request)
            )
        else:
            results = await self._write(request)
        self._rearm_soon()
        if any(results):
            raise BatchError(results, "Write")
        return p4r.WriteResponse()

    def _rearm_soon(self) -> None:
        """Have detours in place again that Writes left alone; that takes a tenth of the time at most."""
        if self._rearming is None:
            in_s = max(_REARM_S, _REARM_SHARE * self._rearming_took)
            self._rearming = asyncio.get_running_loop().call_later(in_s, self._rearm)

    def _rearm(self) -> None:
        self._rearming = None
        running = self.config.running
        if running is not None:
            began = time.monotonic()
            running.forwarding.pipeline.rearm()
            self._rearming_took = time.monotonic() - began

    async def _write(self, request: p4r.WriteRequest) -> Results:
        while True:
            state = self.config.forwarding()
            batch = Batch(state, request.updates, state.runs(request))
            async with self._turns.hold(batch.objects()):
                self._check_primary(request)
                # While it waited, another pipeline may have come, which has objects of its own.
                if self.config.forwarding() is not state:
                    continue
                if request.atomicity == p4r.WriteRequest.ROLLBACK_ON_ERROR:
                    return apply_or_roll_back(batch, request.role)
                return await batch.apply(request.role)

    async def read(self, request: p4r.ReadRequest) -> AsyncIterator[p4r.ReadResponse]:
        """Stream the entities that the requests of a batch select, as they were at one moment."""
        self._check_device(request.device_id)
        state = self.config.forwarding()
        results: list[P4RuntimeError | None] = []
        found = []
        async with self._turns.hold(state.objects(request.entities), lets_pass=True):
            for query in request.entities:
                try:
                    found.append(state.read(query, request.role))
                    results.append(None)
                except P4RuntimeError as error:
                    results.append(error)
        response = p4r.ReadResponse()
        for entities in found:
            for entity in entities:
                response.entities.append(entity)
                if len(response.entities) == READ_BATCH:
                    yield response
                    response = p4r.ReadResponse()
                elif len(response.entities) % TURN == 0:
                    await asyncio.sleep(0)
        if response.entities:
            yield response
        if any(results):
            raise BatchError(results, "Read")

    async def set_forwarding_pipeline_config(
        self, request: p4r.SetForwardingPipelineConfigRequest
    ) -> p4r.SetForwardingPipelineConfigResponse:
        """Verify, save or commit a P4 program."""
        self._check_primary(request)
        config = request.config if request.HasField("config") else None
        await self.config.set(request.action, config, lambda: self._check_primary(request))
        return p4r.SetForwardingPipelineConfigResponse()

    async def get_forwarding_pipeline_config(
        self, request: p4r.GetForwardingPipelineConfigRequest
    ) -> p4r.GetForwardingPipelineConfigResponse:
        """Return the committed P4 program, or the parts of it that were asked for."""
        self._check_device(request.device_id)
        return self.config.get(request.response_type)

    async def capabilities(self, request: p4r.CapabilitiesRequest) -> p4r.CapabilitiesResponse:
        """Return the version of the P4Runtime API."""
        if request.device_id:
            self._check_device(request.device_id)
        return p4r.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    async def receive(self, stream: Stream, request: p4r.StreamMessageRequest) -> None:
        """Take a message of a StreamChannel; where P4RuntimeError is raised the channel is to be closed."""
        kind = request.WhichOneof("update")
        if kind == "packet":
            self._send_packet(stream, request.packet)
        elif kind == "arbitration":
            await self._arbitrate(stream, request.arbitration)
        elif kind == "digest_ack":
            self._acknowledge(stream, request.digest_ack)
        else:
            error = unimplemented("this kind of stream message is not supported")
            stream.offer(stream_error(error, request))

    def forget(self, stream: Stream) -> None:
        """Note that a StreamChannel was closed."""
        self._notify(self._arbitration.remove(stream))

    async def _arbitrate(self, stream: Stream, claim: p4r.MasterArbitrationUpdate) -> None:
        """Enter a claim; a new primary hears of it once what the one before began to write is done."""
        notifications = self._arbitration.update(stream, claim)
        role = self._arbitration.role_of(stream)
        assert role is not None
        if self._arbitration.primary(role) is stream:
            running = self.config.running
            if running is not None and len(notifications) > 1:
                running.forwarding.digests.forget_sent()
            self._notify([n for n in notifications if n.stream is not stream])
            async with self._turns.hold(None):
                notifications = [self._arbitration.notification(stream)]
        self._notify(notifications)

    def _send_packet(self, stream: Stream, message: p4r.PacketOut) -> None:
        try:
            role, running = self._speaking(stream)
            if not running.forwarding.roles.may_send(role):
                raise permission_denied(f"role {role!r} may not send packets")
            frame = running.packet_out.packet_out(message)
            try:
                self._device.send(frame)
            except (OSError, ValueError) as error:
                raise invalid_argument(f"the packet cannot be sent: {error}") from error
        except P4RuntimeError as error:
            stream.offer(stream_error(error, p4r.StreamMessageRequest(packet=message)))

    def _acknowledge(self, stream: Stream, message: p4r.DigestListAck) -> None:
        try:
            _, running = self._speaking(stream)
            running.forwarding.digests.acknowledge(message)
        except P4RuntimeError as error:
            stream.offer(stream_error(error, p4r.StreamMessageRequest(digest_ack=message)))

    def _speaking(self, stream: Stream) -> tuple[str, Staged]:
        """Return the role of a primary controller and what runs; raises P4RuntimeError for others."""
        role = self._arbitration.role_of(stream)
        if role is None or stream is not self._arbitration.primary(role):
            raise permission_denied("only the primary controller sends packets and acknowledges digests")
        if self.config.running is None:
            raise failed_precondition("no pipeline is running")
        return role, self.config.running

    def _tell(self, number: int, message: p4r.StreamMessageResponse) -> None:
        """Offer a message about a P4Info object to the primary controllers that may hear of it."""
        running = self.config.running
        for role, primary in self._arbitration.primaries().items():
            if running is not None and running.forwarding.roles.allows(role, number):
                primary.offer(message)

    def _pass_packets_in(self) -> None:
        """Pass waiting packets to the primary controllers; without one they are lost, as on BMv2."""
        running = self.config.running
        for _ in range(PACKETS_AT_ONCE):
            try:
                frame = self._device.receive()
            except OSError as error:
                _log.error("the CPU port was broken (%s) and has been made anew", error)
                self.stop()
                self.start()
                return
            if frame is None:
                return
            if running is None:
                continue
            try:
                message = p4r.StreamMessageResponse(packet=running.packet_in.packet_in(frame))
            except P4RuntimeError as error:
                _log.error("drops a packet-in: %s", error)
                continue
            for role, primary in self._arbitration.primaries().items():
                if running.forwarding.roles.may_receive(role):
                    primary.offer(message)

    def _ports_changed(self) -> None:
        self.config.ports_changed(self._device.port_states())

    def _before_change(self) -> None:
        """Take what the pipeline that runs has still to say."""
        self._pass_packets_in()
        self._notifications.watch(None)

    def _after_change(self) -> None:
        """Listen to the pipeline that runs, and let controllers claim the roles that it names."""
        running = self.config.running
        self._notifications.watch(running)
        self._arbitration.declared = running.forwarding.roles.names if running is not None else ()

    def _check_device(self, device_id: int) -> None:
        if device_id != self._device_id:
            raise not_found(f"device id {device_id} is not {self._device_id}")

    def _check_primary(self, request: p4r.WriteRequest | p4r.SetForwardingPipelineConfigRequest) -> None:
        election_id = U128.decode(request.election_id) if request.HasField("election_id") else None
        self._arbitration.check_write(request.device_id, request.role, request.role_id, election_id)

    def _notify(self, notifications: Sequence[Notification[Stream]]) -> None:
        for notification in notifications:
            notification.stream.send(p4r.StreamMessageResponse(arbitration=notification.message))
