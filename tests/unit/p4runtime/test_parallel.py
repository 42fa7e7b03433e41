"""Writes and Reads beside each other: as if one after the other, and nobody waits who need not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest
from finsy.proto import U128, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime import bulk
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.stream import Stream
from tests.unit.p4runtime.client import INSERT, Client, Names, codes, direct, exact, lpm
from tests.unit.p4runtime.conftest import CONFIG, INFO
from tests.unit.p4runtime.memory import MemoryDevice
from tests.unit.p4runtime.test_sessions import Push
from tests.unit.p4runtime.test_tables import host

NAMES = Names(INFO)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes look at what else there is to do as often as large ones do, though tables are small."""
    monkeypatch.setattr(bulk, "RUN", 64)


def entries(number: int) -> list[p4r.TableEntry]:
    action = direct(NAMES.action("punt"))
    return [NAMES.entry("host", exact(1, address), action=action) for address in range(number)]


def request(messages: Sequence[p4r.TableEntry], election_id: int | None = None) -> p4r.WriteRequest:
    result = p4r.WriteRequest(device_id=1)
    if election_id is not None:
        result.election_id.CopyFrom(U128.encode(election_id))
    for message in messages:
        result.updates.add(type=INSERT, entity=p4r.Entity(table_entry=message))
    return result


async def started() -> P4RuntimeService:
    service = P4RuntimeService(MemoryDevice(), 1)
    config = p4r.ForwardingPipelineConfig(p4info=INFO, p4_device_config=CONFIG)
    await service.set_pipeline(Push.VERIFY_AND_COMMIT, config)
    return service


async def count(service: P4RuntimeService) -> int:
    query = p4r.ReadRequest(device_id=1)
    query.entities.add().table_entry.table_id = NAMES["host"]
    return sum([len(response.entities) async for response in service.read(query)])


def test_a_write_to_another_table_passes_a_long_one() -> None:
    async def run() -> None:
        service = await started()
        long = asyncio.create_task(service.write(request(entries(1000))))
        await asyncio.sleep(0)
        route = NAMES.entry("route", lpm(1, 0x0A000000, 8), action=direct(NAMES.action("drop")))
        await service.write(request([route]))
        assert not long.done()
        await long

    asyncio.run(run())


def test_a_read_sees_a_write_whole_or_not_at_all() -> None:
    async def run() -> None:
        service = await started()
        long = asyncio.create_task(service.write(request(entries(1000))))
        reads = []
        while not long.done():
            reads.append(asyncio.create_task(count(service)))
            await asyncio.sleep(0)
        assert len(reads) > 5
        assert {await read for read in reads} <= {0, 1000}

    asyncio.run(run())


def test_a_write_does_not_wait_for_a_read_to_be_sent() -> None:
    async def run() -> None:
        service = await started()
        await service.write(request(entries(1000)))
        query = p4r.ReadRequest(device_id=1)
        query.entities.add().table_entry.table_id = NAMES["host"]
        responses = service.read(query)
        first = asyncio.ensure_future(anext(responses))
        await asyncio.sleep(0)
        deletion = request(entries(1000))
        for update in deletion.updates:
            update.type = p4r.Update.DELETE
        await service.write(deletion)
        assert len((await first).entities) == 1000, "what was there when the Read began"
        await responses.aclose()

    asyncio.run(run())


def test_a_new_primary_hears_of_it_once_the_writes_before_are_done_and_the_old_one_is_denied() -> None:
    async def run() -> None:
        service = await started()
        told: list[p4r.StreamMessageResponse] = []

        async def hear(message: p4r.StreamMessageResponse) -> None:
            told.append(message)

        old, new = Stream(hear), Stream(hear)

        def claim(election_id: int) -> p4r.StreamMessageRequest:
            message = p4r.StreamMessageRequest()
            message.arbitration.device_id = 1
            message.arbitration.election_id.CopyFrom(U128.encode(election_id))
            return message

        await service.receive(old, claim(1))
        running = asyncio.create_task(service.write(request(entries(500), 1)))
        await asyncio.sleep(0)
        queued = asyncio.create_task(service.write(request(entries(1), 1)))
        await asyncio.sleep(0)
        told.clear()
        taking_over = asyncio.create_task(service.receive(new, claim(2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [m.arbitration.status.code for m in told] == [rpc_code.ALREADY_EXISTS]
        assert not running.done()
        with pytest.raises(P4RuntimeError) as caught:
            await service.write(request(entries(1), 1))
        assert caught.value.code == rpc_code.PERMISSION_DENIED
        await taking_over
        assert running.done(), "what the old primary had begun is finished first"
        assert isinstance(queued.exception(), P4RuntimeError)
        await asyncio.sleep(0)
        assert told[-1].arbitration.status.code == rpc_code.OK
        old.close()
        new.close()

    asyncio.run(run())


def test_a_failure_of_the_switch_is_one_updates_and_no_batchs(client: Client, device, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("no such cell")

    monkeypatch.setattr(device.pipeline, "write_direct", fail)
    count = p4r.CounterData(packet_count=1)
    with pytest.raises(grpc.RpcError) as caught:
        client.write(
            (INSERT, host(client, 1)),
            (INSERT, host(client, 2, counter_data=count)),
            (INSERT, host(client, 3)),
        )
    assert codes(caught.value) == [rpc_code.OK, rpc_code.INTERNAL, rpc_code.OK]
