"""A P4Runtime session with the switch: primary, pipeline in place, rows in and out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any

import grpc
from finsy import P4ClientError, P4MeterEntry, P4TableEntry
from finsy.proto import U128, p4r, p4r_grpc, rpc_code

from duet_p4 import detour, telemetry
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.codec import Codec
from duet_p4.hmux.plan import Plan, Step, Update
from duet_p4.hmux.rows import Row
from duet_p4.identity import Credentials

logger = logging.getLogger(__name__)

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The details of a write that is refused come as metadata, some 35 bytes for each update of a batch.
    ("grpc.max_metadata_size", 1 << 16),
    ("grpc.absolute_max_metadata_size", 1 << 18),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]
_RPC_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 3.0
_PUSH_TIMEOUT_S = 60.0
_MAX_BATCH = 250


class SwitchError(Exception):
    """The switch is gone, or does not do what P4Runtime says; the session is over."""


class WriteError(Exception):
    """The switch refused updates; `taken` are those that it did take, in the order sent."""

    def __init__(self, text: str, taken: Sequence[Update[Any]]) -> None:
        super().__init__(text)
        self.taken = taken


class Switch:
    """One session. `writes` counts the updates that the switch has taken.

    With credentials over mutual TLS; None is for a Unix socket, or for tests.
    """

    def __init__(self, address: str, device_id: int, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        self._device_id = device_id
        self._schema = pipeline.schema()
        self._codec = Codec(self._schema)
        # Later sessions outbid earlier ones, so a restarted agent never waits for its predecessor's.
        self._election_id = U128.encode(time.time_ns())
        self._primary = asyncio.Event()
        self.writes = 0

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[None]:
        """Connect without a session: good for reading only."""
        async with self.open() as channel:
            self._stub = p4r_grpc.P4RuntimeStub(channel)
            yield

    def open(self) -> grpc.aio.Channel:
        """Return a channel to the switch."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        trust, key, certificate = self._credentials.parts()
        shown = grpc.ssl_channel_credentials(trust, key, certificate)
        return grpc.aio.secure_channel(self._address, shown, options=_OPTIONS)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncio.Task[None]]:
        """Connect and become primary. Yields a task that ends, with `SwitchError`, when the session does."""
        async with self.channel():
            stream = self._stub.StreamChannel(wait_for_ready=True)
            lost = asyncio.create_task(self._run_stream(stream), name="P4Runtime stream")
            primary = asyncio.create_task(self._primary.wait())
            try:
                await asyncio.wait(
                    {lost, primary}, timeout=_CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
                )
                if lost.done():
                    await lost
                if not primary.done():
                    raise SwitchError(
                        f"the switch at {self._address} opens no session in {_CONNECT_TIMEOUT_S:g} s"
                    )
                yield lost
            finally:
                self._primary.clear()
                for task in (lost, primary):
                    task.cancel()
                await asyncio.gather(lost, primary, return_exceptions=True)
                stream.cancel()

    async def ensure_pipeline(self) -> bool:
        """Have the switch run hmux.p4; return whether it had to be pushed, which empties all tables."""
        wanted = self._schema.get_pipeline_config()
        wanted.cookie.cookie = int.from_bytes(
            hashlib.sha256(
                wanted.p4_device_config + wanted.p4info.SerializeToString(deterministic=True)
            ).digest()[:8]
        )
        request = p4r.GetForwardingPipelineConfigRequest(
            device_id=self._device_id,
            response_type=p4r.GetForwardingPipelineConfigRequest.COOKIE_ONLY,
        )
        try:
            reply = await self._stub.GetForwardingPipelineConfig(request, timeout=_RPC_TIMEOUT_S)
            if reply.config.cookie.cookie == wanted.cookie.cookie:
                return False
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise _lost(error) from error
        push = p4r.SetForwardingPipelineConfigRequest(
            device_id=self._device_id,
            election_id=self._election_id,
            action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
            config=wanted,
        )
        try:
            await self._stub.SetForwardingPipelineConfig(push, timeout=_PUSH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise SwitchError(f"the switch refuses the pipeline: {error.details()}") from error
        return True

    async def configure(self, wanted: Iterable[P4TableEntry | P4MeterEntry]) -> None:
        """Write those of a few entries that the switch does not hold so."""
        updates = []
        for entry in wanted:
            encoded = entry.encode(self._schema)
            if isinstance(entry, P4MeterEntry):
                if encoded not in await self._read([encoded]):
                    updates.append((~entry).encode_update(self._schema))
                continue
            held = await self._read([encoded])
            same = [one for one in held if one.table_entry.match == encoded.table_entry.match]
            if any(one.table_entry.action == encoded.table_entry.action for one in same):
                continue
            modify = bool(same) or entry.is_default_action
            updates.append(((~entry) if modify else (+entry)).encode_update(self._schema))
        if updates:
            await self._send(updates)
            self.writes += len(updates)

    async def read_rows(self) -> tuple[list[Row], list[p4r.TableEntry]]:
        """Return every row the switch holds, and what of its tables is no row: others' entries.

        With one request, so that rows fit those that they refer to.
        """
        rows, foreign = [], []
        tables = (p4r.TableEntry(table_id=table_id) for table_id in self._codec.table_ids)
        for entity in await self._read([p4r.Entity(table_entry=table) for table in tables]):
            entry = entity.table_entry
            if entry.is_default_action:
                continue
            row = self._codec.row(entry)
            if row is None:
                foreign.append(entry)
            else:
                rows.append(row)
        return rows, foreign

    async def read_counted_rows(self) -> list[tuple[Row, int, int]]:
        """Return every row of a table with counters, with the packets and bytes it has matched.

        Table by table, so that no write waits for all.
        """
        found = []
        for table_id in self._codec.table_ids:
            if self._schema.tables[table_id].direct_counter is None:
                continue
            query = p4r.TableEntry(table_id=table_id)
            query.counter_data.SetInParent()
            for entity in await self._read([p4r.Entity(table_entry=query)]):
                row = self._codec.row(entity.table_entry)
                if row is not None:
                    counted = entity.table_entry.counter_data
                    found.append((row, counted.packet_count, counted.byte_count))
        return found

    async def remove(self, entries_: Sequence[p4r.TableEntry]) -> list[str]:
        """Delete entries that are no rows; return what the switch refused."""
        refused = []
        for entry in entries_:
            update = p4r.Update(type=p4r.Update.DELETE, entity=p4r.Entity(table_entry=_key(entry)))
            try:
                await self._send([update])
                self.writes += 1
            except P4ClientError as error:
                refused.append(f"{self._schema.tables[entry.table_id].name}: {error.message}")
        return refused

    async def packets(self, addresses: Iterable[IPv4Address]) -> int:
        """Return how many packets came for VIPs and TIPs; 0 for those that the switch does not hold."""
        queries = [entries.vip_counter(address).encode(self._schema) for address in addresses]
        return sum(found.table_entry.counter_data.packet_count for found in await self._read(queries))

    async def read_drops(self) -> dict[entries.DropReason, int]:
        """Return how many packets were dropped, by reason."""
        wanted = [counter.encode(self._schema) for counter in entries.drop_counters()]
        counters = [
            type(entries.drop_counters()[0]).decode(entity, self._schema)
            for entity in await self._read(wanted)
        ]
        return entries.drop_counts(counters)

    async def write(self, step: Step[Any]) -> None:
        """Write the updates of a step. Raises `WriteError` where the switch takes only some of them.

        One batch at a time: what leads around a dead neighbour waits for one batch of a VIP at most.
        """
        taken: list[Update[Any]] = []
        refusal: WriteError | None = None
        sending: asyncio.Task[Sequence[Update[Any]]] | None = None
        for start in range(0, len(step.updates), _MAX_BATCH):
            batch = step.updates[start : start + _MAX_BATCH]
            # The switch works on a batch while the next is encoded.
            encoded = [self._codec.update(update) for update in batch]
            if sending is not None and (refusal := await _outcome(sending, taken)) is not None:
                sending = None
                break
            sending = asyncio.create_task(self._write_batch(batch, encoded))
            await asyncio.sleep(0)
        if sending is not None:
            refusal = await _outcome(sending, taken)
        self.writes += len(taken)
        if refusal is not None:
            refusal.taken = taken
            raise refusal

    async def _write_batch(
        self, batch: Sequence[Update[Any]], encoded: Sequence[p4r.Update]
    ) -> Sequence[Update[Any]]:
        """Write updates with one request, and return them. Raises `WriteError`."""
        try:
            await self._send(encoded)
        except P4ClientError as error:
            if not error.details:
                raise SwitchError(f"the switch refuses a write: {error.message}") from error
            index, first = min(error.details.items())
            raise WriteError(
                f"the switch refuses {batch[index].op.name} of {batch[index].row}: "
                f"{first.canonical_code.name} {first.message}".rstrip(),
                [update for index, update in enumerate(batch) if index not in error.details],
            ) from error
        return batch

    async def prepare_detour(self, port: int, updates: Sequence[Update[Any]]) -> bool:
        """Have the switch carry updates out by itself once a port dies; False where it knows no detours.

        They replace what it held for the port. Raises `SwitchError` where the session ends; what the switch
        does not take, because its tables have changed meanwhile, is left out.
        """
        entity = detour.entity(port, map(self._codec.update, updates))
        try:
            await self._send([p4r.Update(type=p4r.Update.MODIFY, entity=entity)])
        except P4ClientError as error:
            refused = next(iter(error.details.values()), None)
            return refused is None or refused.canonical_code.name != "UNIMPLEMENTED"
        return True

    async def write_plan(self, plan: Plan[Any]) -> dict[str, float]:
        """Write a plan, step by step; return the milliseconds that each label took.

        Raises `WriteError` with all that was taken, of earlier steps too.
        """
        timings: dict[str, float] = {}
        taken: list[Update[Any]] = []
        for step in plan.steps:
            started = time.perf_counter()
            try:
                await self.write(step)
            except WriteError as error:
                error.taken = [*taken, *error.taken]
                raise
            taken += step.updates
            timings[step.label] = timings.get(step.label, 0.0) + 1000 * (time.perf_counter() - started)
        return timings

    async def _send(self, updates: Sequence[p4r.Update]) -> None:
        request = p4r.WriteRequest(device_id=self._device_id, election_id=self._election_id, updates=updates)
        try:
            with telemetry.span("P4Runtime Write", telemetry.Kind.CLIENT, p4runtime__updates=len(updates)):
                await self._stub.Write(request, timeout=_RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNKNOWN:
                raise P4ClientError(error, "Write", msg=request) from None
            raise _lost(error) from error

    async def _read(self, queries: Sequence[p4r.Entity]) -> list[p4r.Entity]:
        request = p4r.ReadRequest(device_id=self._device_id, entities=queries)
        try:
            return [
                entity
                async for reply in self._stub.Read(request, timeout=_RPC_TIMEOUT_S)
                for entity in reply.entities
            ]
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error

    async def _run_stream(self, stream: Any) -> None:
        arbitration = p4r.MasterArbitrationUpdate(device_id=self._device_id, election_id=self._election_id)
        try:
            await stream.write(p4r.StreamMessageRequest(arbitration=arbitration))
            while (message := await stream.read()) is not grpc.aio.EOF:
                if message.HasField("arbitration"):
                    self._arbitrate(message.arbitration)
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        raise SwitchError(f"the switch at {self._address} closed the session")

    def _arbitrate(self, update: p4r.MasterArbitrationUpdate) -> None:
        if update.status.code == rpc_code.OK:
            self._primary.set()
        else:
            raise SwitchError(f"another P4Runtime client controls the switch at {self._address}")


async def _outcome(
    sending: asyncio.Task[Sequence[Update[Any]]], taken: list[Update[Any]]
) -> WriteError | None:
    """Wait for a batch, add what was taken of it, and return the refusal of what was not."""
    try:
        taken += await sending
    except WriteError as error:
        taken += error.taken
        return error
    return None


def _key(entry: p4r.TableEntry) -> p4r.TableEntry:
    """Return an entry as it is named to be deleted."""
    return p4r.TableEntry(table_id=entry.table_id, match=entry.match, priority=entry.priority)


def _lost(error: grpc.aio.AioRpcError) -> SwitchError:
    return SwitchError(f"P4Runtime: {error.code().name} {error.details()}")
