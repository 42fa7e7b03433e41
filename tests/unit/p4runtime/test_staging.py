"""A push of a pipeline is carried out whole or not at all, whenever its client goes away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import pytest
from finsy.proto import U128, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from tests.unit.p4runtime.client import DEADLINE, INSERT, MODIFY, Client, Stream, direct, exact
from tests.unit.p4runtime.conftest import CONFIG, INFO
from tests.unit.p4runtime.memory import MemoryDevice, MemoryPipeline
from tests.unit.p4runtime.test_sessions import Push, host, outcome, write_code

ACTIONS = [
    Push.VERIFY,
    Push.VERIFY_AND_SAVE,
    Push.VERIFY_AND_COMMIT,
    Push.COMMIT,
    Push.RECONCILE_AND_COMMIT,
]


def config(cookie: int, data: bytes = CONFIG) -> p4r.ForwardingPipelineConfig:
    result = p4r.ForwardingPipelineConfig(p4info=INFO, p4_device_config=data)
    result.cookie.cookie = cookie
    return result


def cookie(client: Client) -> int:
    request = p4r.GetForwardingPipelineConfigRequest(device_id=1)
    return client.stub.GetForwardingPipelineConfig(request).config.cookie.cookie


def pushed(client: Client, device: MemoryDevice, *, timeout: float) -> Callable[[], grpc.StatusCode]:
    """Begin a push that the device holds back; the function that is returned says how it ended."""
    device.staging.clear()
    device.gate.clear()
    request = p4r.SetForwardingPipelineConfigRequest(device_id=1, action=Push.VERIFY_AND_COMMIT)
    request.config.CopyFrom(config(2, b"other"))
    if client.election_id is not None:
        request.election_id.CopyFrom(U128.encode(client.election_id))
    call = client.stub.SetForwardingPipelineConfig.future(request, timeout=timeout)
    assert device.staging.wait(DEADLINE)

    def ended() -> grpc.StatusCode:
        return grpc.StatusCode.OK if call.exception() is None else call.code()

    return ended


def test_a_push_whose_client_gives_up_changes_nothing(client: Client, device: MemoryDevice) -> None:
    client.push(config=config(1))
    client.write((INSERT, host(client)))
    running = device.pipeline
    ended = pushed(client, device, timeout=0.2)
    assert ended() is grpc.StatusCode.DEADLINE_EXCEEDED
    for _ in range(20):
        # The server hears that the client gave up before it hears this.
        client.stub.Capabilities(p4r.CapabilitiesRequest())
    device.gate.set()
    client.push(Push.VERIFY)
    assert device.pipeline is running
    assert cookie(client) == 1
    assert client.read(client.names.entry("host")) == [host(client)]
    assert device.open == [running], "what was made for the push is closed"


def test_everything_goes_on_while_a_pipeline_is_compiled(client: Client, device: MemoryDevice) -> None:
    with Stream(client.stub) as first, Stream(client.stub) as second:
        first.claim(1)
        client.election_id = 1
        ended = pushed(client, device, timeout=DEADLINE)
        client.write((INSERT, host(client)))
        assert client.read(client.names.entry("host")) == [host(client)]
        device.arrive(b"\0\0frame")
        assert first.receive().packet.payload == b"frame"
        packet = p4r.PacketOut(payload=b"out")
        packet.metadata.add(metadata_id=1, value=b"\1")
        first.send(packet=packet)
        assert second.claim(0).status.code == rpc_code.ALREADY_EXISTS
        assert first.claim(1).status.code == rpc_code.OK
        assert device.sent == [b"\0\x80out"]
        device.gate.set()
        assert ended() is grpc.StatusCode.OK
    assert cookie(client) == 2


def test_a_push_of_a_controller_that_was_demoted_meanwhile_is_denied(
    client: Client, device: MemoryDevice
) -> None:
    with Stream(client.stub) as first, Stream(client.stub) as second:
        first.claim(1)
        client.election_id = 1
        ended = pushed(client, device, timeout=DEADLINE)
        assert second.claim(2).status.code == rpc_code.OK
        device.gate.set()
        assert ended() is grpc.StatusCode.PERMISSION_DENIED
    assert cookie(client) == 0


def test_ports_that_refuse_leave_the_old_pipeline(client: Client, device: MemoryDevice) -> None:
    client.push(config=config(1))
    client.write((INSERT, host(client)))
    running = device.pipeline
    device.refusing = True
    for action in (Push.VERIFY_AND_COMMIT, Push.RECONCILE_AND_COMMIT):
        assert outcome(lambda kind=action: client.push(kind, config(2, b"other"))) is grpc.StatusCode.INTERNAL
    assert (device.pipeline, cookie(client)) == (running, 1)
    assert client.read(client.names.entry("host")) == [host(client)]
    assert device.open == [running]


def test_a_push_that_hangs_up_holds_nothing(client: Client, device: MemoryDevice) -> None:
    assert outcome(lambda: client.push(config=config(2, b"stops"))) is grpc.StatusCode.INTERNAL
    assert write_code(client, None) is grpc.StatusCode.OK
    client.push(config=config(3))
    assert cookie(client) == 3


def test_reconcile_keeps_counters_registers_and_direct_counters(client: Client) -> None:
    names = client.names
    counted = host(client)
    counted.counter_data.packet_count, counted.counter_data.byte_count = 3, 300
    cell = p4r.CounterEntry(counter_id=names["drops"], index=p4r.Index(index=2))
    cell.data.packet_count = 9
    register = p4r.RegisterEntry(register_id=names["seen"], index=p4r.Index(index=1))
    register.data.bitstring = b"\7"
    client.write((INSERT, counted), (MODIFY, cell), (MODIFY, register))
    before = client.everything()
    client.push(Push.RECONCILE_AND_COMMIT, config(1, b"other"))
    assert client.everything() == before


def test_what_packets_do_until_the_very_change_is_kept(client: Client, device: MemoryDevice) -> None:
    client.write((INSERT, host(client)))
    batch = [(MODIFY, host(client)), (MODIFY, host(client))]

    def packets(before: MemoryPipeline | None) -> None:
        assert before is not None
        (name,) = (name for name in before.tables if name.endswith("host"))
        ((key, priority),) = before.tables[name]
        before.add_direct(name, {(key, priority): (1, 64)})
        before.add_counter(next(iter(before.counters)), 2, [(3, 4)])
        before.write_register(next(iter(before.registers)), 5, [77])

    device.on_change = packets
    client.write(*batch, atomicity=p4r.WriteRequest.DATAPLANE_ATOMIC)
    client.write(*batch, atomicity=p4r.WriteRequest.DATAPLANE_ATOMIC)
    names = client.names
    counted = client.read(names.entry("host", counter_data=p4r.CounterData()))[0].counter_data
    assert (counted.packet_count, counted.byte_count) == (2, 128)
    cell = client.read(p4r.CounterEntry(counter_id=names["drops"], index=p4r.Index(index=2)))[0]
    assert cell.data.packet_count == 6
    register = client.read(p4r.RegisterEntry(register_id=names["seen"], index=p4r.Index(index=5)))[0]
    assert register.data.bitstring == bytes([77])
    assert device.open == [device.pipeline]


def test_a_batch_at_once_whose_client_gives_up_changes_nothing(client: Client, device: MemoryDevice) -> None:
    client.write((INSERT, host(client)))
    running = device.pipeline
    device.gate.clear()
    with pytest.raises(grpc.RpcError) as caught:
        client.write(
            (MODIFY, host(client)),
            (INSERT, host(client)),
            atomicity=p4r.WriteRequest.DATAPLANE_ATOMIC,
            timeout=0.2,
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    for _ in range(20):
        client.stub.Capabilities(p4r.CapabilitiesRequest())
    device.gate.set()
    client.push(Push.VERIFY)
    assert device.open == [device.pipeline] == [running]


def test_reconcile_keeps_entries_under_a_p4info_that_still_means_the_same(client: Client) -> None:
    client.write((INSERT, host(client)))
    other = config(1, b"other")
    other.p4info.tables[0].size += 1
    client.push(Push.RECONCILE_AND_COMMIT, other)
    assert client.read(client.names.entry("host")) == [host(client)]


def test_reconcile_into_a_table_that_is_too_small_changes_nothing(client: Client, device) -> None:
    entries = [
        client.names.entry("host", exact(1, number), action=direct(client.names.action("drop")))
        for number in range(10)
    ]
    client.write(*((INSERT, entry) for entry in entries))
    running = device.pipeline
    small = config(1, b"other")
    next(t for t in small.p4info.tables if t.preamble.alias == "host").size = 5
    assert outcome(lambda: client.push(Push.RECONCILE_AND_COMMIT, small)) is grpc.StatusCode.INVALID_ARGUMENT
    assert device.pipeline is running
    assert client.read(client.names.entry("host")) == entries
    assert device.open == [running]


async def _steps(work: Awaitable[None], steps: int) -> bool:
    """Cancel `work` after so many turns of the event loop; whether it had been done before."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError, P4RuntimeError):
        await task
    return done


async def _quiet(device: MemoryDevice) -> None:
    """Wait until no thread stages anything, and what it made was handed over."""
    for thread in threading.enumerate():
        if thread.name == "stage":
            await asyncio.to_thread(thread.join)
    for _ in range(20):
        await asyncio.sleep(0)


def entity(number: int) -> p4r.Update:
    update = p4r.Update(type=INSERT)
    entry = update.entity.table_entry
    table = next(t for t in INFO.tables if t.preamble.alias == "host")
    entry.table_id = table.preamble.id
    entry.match.add(field_id=1).exact.value = number.to_bytes(4, "big").lstrip(b"\0") or b"\0"
    entry.action.action.action_id = next(a.preamble.id for a in INFO.actions if a.preamble.alias == "punt")
    return update


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("held", [False, True])
def test_a_push_cancelled_at_any_step_is_done_or_undone(action: int, held: bool) -> None:
    """`held`: a Write holds the tables when the push comes to where it would change them."""

    async def attempt(steps: int) -> bool:
        device = MemoryDevice()
        service = P4RuntimeService(device, 1)
        try:
            await service.set_pipeline(Push.VERIFY_AND_COMMIT, config(1))
            updates = [entity(number) for number in range(200)]
            await service.write(p4r.WriteRequest(device_id=1, updates=updates))
            if action == Push.COMMIT:
                await service.set_pipeline(Push.VERIFY_AND_SAVE, config(2, b"other"))
            before, state = device.pipeline, service.config.forwarding()
            beside = None
            if held:
                more = [entity(number) for number in range(200, 600)]
                beside = asyncio.ensure_future(service.write(p4r.WriteRequest(device_id=1, updates=more)))
            work = service.set_pipeline(action, None if action == Push.COMMIT else config(2, b"other"))
            done = await _steps(work, steps)
            await _quiet(device)
            if beside is not None:
                await beside
            running = service.config.running
            assert running is not None
            assert running.pipeline is device.pipeline
            assert not running.pipeline.closed
            if device.pipeline is before:
                assert running.config.cookie.cookie == 1
                entries = running.pipeline.tables["IngressImpl.host"]
                assert len(entries) == (600 if held and action != Push.COMMIT else 200)
                expected = 1 + (service.config.forwarding() is not running.forwarding)
            else:
                assert running.config.cookie.cookie == 2
                expected = 1
            if done and action in (Push.VERIFY_AND_COMMIT, Push.COMMIT, Push.RECONCILE_AND_COMMIT):
                assert device.pipeline is not before
            assert len(device.open) == expected, "what is neither running nor saved is closed"
            if action == Push.VERIFY:
                assert service.config.forwarding() is state
            # And it goes on: nothing is held, and the next push works.
            await service.set_pipeline(Push.RECONCILE_AND_COMMIT, config(3, b"third"))
            assert running.pipeline.closed
            return done
        finally:
            device.close()

    steps = 0
    while not asyncio.run(attempt(steps)):
        steps += 1
        assert steps < 20_000, "the push never ends"
