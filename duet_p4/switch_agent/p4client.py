"""What an agent asks of a switch that runs hmux.p4: the pipeline in place, rows in and out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any

from finsy import P4ClientError, P4MeterEntry, P4Schema, P4TableEntry
from finsy.proto import p4r

from duet_p4 import detour
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.codec import Codec
from duet_p4.hmux.plan import Plan, Step, Update
from duet_p4.hmux.rows import Row
from duet_p4.identity import Credentials
from duet_p4.switch_agent.p4session import Session, SwitchError

_MAX_BATCH = 250


class WriteError(Exception):
    """The switch refused updates; `taken` are those that it did take, in the order sent."""

    def __init__(self, text: str, taken: Sequence[Update[Any]]) -> None:
        super().__init__(text)
        self.taken = taken


class NoDetoursError(Exception):
    """The switch prepares nothing for ports that die."""


class Switch(Session):
    """A session with a switch of hmux.p4. `writes` counts the updates that the switch has taken.

    `schema` is the pipeline that it is to run, by default hmux.p4's own. One that `takes_back` has
    ROLLBACK_ON_ERROR: of a Write that it refuses, nothing stays.
    """

    def __init__(
        self,
        address: str,
        device_id: int,
        credentials: Credentials | None = None,
        schema: P4Schema | None = None,
        *,
        takes_back: bool = False,
    ) -> None:
        super().__init__(address, device_id, credentials)
        self._schema = schema or pipeline.schema()
        self._codec = Codec(self._schema)
        self._takes_back = takes_back
        self.writes = 0

    async def ensure_pipeline(self) -> bool:
        """Have the switch run the pipeline; return whether it had to be pushed, which empties all tables."""
        wanted = self._schema.get_pipeline_config()
        wanted.cookie.cookie = int.from_bytes(
            hashlib.sha256(
                wanted.p4_device_config + wanted.p4info.SerializeToString(deterministic=True)
            ).digest()[:8]
        )
        if await self.cookie() == wanted.cookie.cookie:
            return False
        await self.push(wanted)
        return True

    async def configure(self, wanted: Iterable[P4TableEntry | P4MeterEntry]) -> None:
        """Write those of a few entries that the switch does not hold so."""
        updates = []
        for entry in wanted:
            encoded = entry.encode(self._schema)
            if isinstance(entry, P4MeterEntry):
                if encoded not in await self.read([encoded]):
                    updates.append((~entry).encode_update(self._schema))
                continue
            held = await self.read([encoded])
            same = [one for one in held if one.table_entry.match == encoded.table_entry.match]
            if any(one.table_entry.action == encoded.table_entry.action for one in same):
                continue
            modify = bool(same) or entry.is_default_action
            updates.append(((~entry) if modify else (+entry)).encode_update(self._schema))
        if updates:
            await self.send(updates)
            self.writes += len(updates)

    async def read_rows(self) -> tuple[list[Row], list[p4r.TableEntry]]:
        """Return every row the switch holds, and what of its tables is no row: others' entries.

        With one request, so that rows fit those that they refer to.
        """
        rows, foreign = [], []
        tables = (p4r.TableEntry(table_id=table_id) for table_id in self._codec.table_ids)
        for entity in await self.read([p4r.Entity(table_entry=table) for table in tables]):
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
            for entity in await self.read([p4r.Entity(table_entry=query)]):
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
                await self.send([update])
                self.writes += 1
            except P4ClientError as error:
                refused.append(f"{self._schema.tables[entry.table_id].name}: {error.message}")
        return refused

    async def packets(self, addresses: Iterable[IPv4Address]) -> int:
        """Return how many packets came for VIPs and TIPs; 0 for those that the switch does not hold."""
        queries = [entries.vip_counter(address).encode(self._schema) for address in addresses]
        return sum(found.table_entry.counter_data.packet_count for found in await self.read(queries))

    async def read_drops(self) -> dict[entries.DropReason, int]:
        """Return how many packets were dropped, by reason."""
        wanted = [counter.encode(self._schema) for counter in entries.drop_counters()]
        counters = [
            type(entries.drop_counters()[0]).decode(entity, self._schema)
            for entity in await self.read(wanted)
        ]
        return entries.drop_counts(counters)

    async def write(self, step: Step[Any]) -> None:
        """Write the updates of a step. Raises `WriteError` where the switch takes only some of them, or none.

        One batch at a time: what leads around a dead neighbour waits for one batch of a VIP at most.
        """
        taken: list[Update[Any]] = []
        refusal: WriteError | None = None
        sending: asyncio.Task[Sequence[Update[Any]]] | None = None
        for start in range(0, len(step.updates), _MAX_BATCH):
            batch = step.updates[start : start + _MAX_BATCH]
            # The switch works on a batch while the next is encoded.
            encoded = [self._codec.serialized(update) for update in batch]
            if sending is not None and (refusal := await _outcome(sending, taken)) is not None:
                sending = None
                break
            sending = asyncio.create_task(self._write_batch(batch, encoded, whole=step.whole))
            await asyncio.sleep(0)
        if sending is not None:
            refusal = await _outcome(sending, taken)
        self.writes += len(taken)
        if refusal is not None:
            refusal.taken = taken
            raise refusal

    async def _write_batch(
        self, batch: Sequence[Update[Any]], encoded: Sequence[bytes], *, whole: bool
    ) -> Sequence[Update[Any]]:
        """Write updates with one request, and return them; `whole`, or none. Raises `WriteError`."""
        try:
            await self.send_serialized(encoded, whole=whole)
        except P4ClientError as error:
            if not error.details:
                raise SwitchError(f"the switch refuses a write: {error.message}") from error
            # ABORTED are those that are not there for another's sake.
            reasons = {n: why for n, why in error.details.items() if why.canonical_code.name != "ABORTED"}
            index, first = min((reasons or error.details).items())
            raise WriteError(
                f"the switch refuses {batch[index].op.name} of {batch[index].row}: "
                f"{first.canonical_code.name} {first.message}".rstrip(),
                [update for index, update in enumerate(batch) if index not in error.details],
            ) from error
        return batch

    async def prepare_detour(self, port: int, updates: Sequence[Update[Any]]) -> bool:
        """Have the switch carry updates out by itself once a port dies, in place of what it held for that.

        False where it does not take them, because its tables have changed meanwhile. Raises `NoDetoursError`
        where it knows none, and `SwitchError` where the session ends.
        """
        entity = detour.entity(port, map(self._codec.update, updates))
        try:
            await self.send([p4r.Update(type=p4r.Update.MODIFY, entity=entity)])
        except P4ClientError as error:
            refused = next(iter(error.details.values()), None)
            if refused is not None and refused.canonical_code.name == "UNIMPLEMENTED":
                raise NoDetoursError(refused.message) from error
            return False
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

    async def write_whole(self, plan: Plan[Any]) -> dict[str, float]:
        """Write a plan of which nothing is to stay where the switch refuses a part, as `write_plan` does.

        What it inserts first is one request, if it is not too much and the switch takes that back itself.
        """
        return await self.write_plan(plan.inserting_whole(_MAX_BATCH) if self._takes_back else plan)


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
