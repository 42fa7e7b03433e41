"""Updates that are carried out together end as they do one at a time: answers, and what is held then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import EntryKey, NoRoomError, TargetAction
from duet_p4.xdp_switch.p4runtime.batch import Batch
from duet_p4.xdp_switch.p4runtime.bulk import FEW, RUN
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from ptf_tests.fuzzer.generate import FAULTS, KINDS, Generator
from ptf_tests.fuzzer.run import held
from tests.unit.p4runtime.client import INSERT, Names, direct, exact, lpm
from tests.unit.p4runtime.test_model import PROGRAMS, staged

BATCHES = 60
Answers = list[tuple[int, str] | None]


def answer(error: P4RuntimeError | None) -> tuple[int, str] | None:
    return (error.code, error.message) if error is not None else None


def one_at_a_time(state: ForwardingState, request: p4r.WriteRequest) -> Answers:
    answers = []
    for update in request.updates:
        try:
            state.write(update)
            answers.append(None)
        except P4RuntimeError as error:
            answers.append(answer(error))
    return answers


def together(state: ForwardingState, request: p4r.WriteRequest) -> Answers:
    batch = Batch(state, request.updates, state.runs(request))
    return [answer(error) for error in asyncio.run(batch.apply(""))]


def everything(info: p4i.P4Info, state: ForwardingState) -> list[bytes]:
    return sorted(entity.SerializeToString(deterministic=True) for entity in held(info, state))


def burst(generator: Generator, rng: random.Random, table: p4i.Table) -> Iterator[p4r.Update]:
    """Yield updates of a table that are much alike; one in ten has something wrong with it."""
    kind, model = rng.choice(KINDS), generator.entry(table).table_entry
    for _ in range(rng.randint(1, 3 * FEW)):
        entity = generator.entry(table)
        while entity.table_entry.action.action.action_id != model.action.action.action_id:
            entity = generator.entry(table)
        if rng.random() < 0.9:
            entity.table_entry.metadata = model.metadata
        update = p4r.Update(type=kind, entity=entity)
        if rng.random() < 0.1:
            rng.choice(FAULTS).spoil(update.entity, generator)
        yield update


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_batch_ends_as_its_updates_one_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (info, bulk), (_, plain) = staged(path), staged(path)
    rng = random.Random(7)
    generator = Generator(info, rng)
    tables = [table for table in info.tables if table.match_fields]
    runs: list[bool] = []
    write_run = bulk.write_run
    monkeypatch.setattr(bulk, "write_run", lambda *given: runs.append(write_run(*given)) or runs[-1])
    for _ in range(BATCHES):
        request = p4r.WriteRequest(device_id=1)
        for _ in range(rng.randint(1, 3)):
            request.updates.extend(burst(generator, rng, rng.choice(tables)))
        assert together(bulk, request) == one_at_a_time(plain, request)
    assert everything(info, bulk) == everything(info, plain)
    if any(not table.implementation_id and not table.is_const_table for table in tables):
        assert any(runs) and not all(runs), "both ways were taken"


def entries(names: Names, first: int, number: int) -> p4r.WriteRequest:
    request = p4r.WriteRequest(device_id=1)
    action = direct(names.action("forward", 1, 2))
    for at in range(first, first + number):
        entry = names.entry("route", lpm(1, at << 8, 24), action=action)
        request.updates.add(type=INSERT, entity=p4r.Entity(table_entry=entry))
    return request


FEATURES = next(path for path in PROGRAMS if path.stem == "features")


def test_a_table_that_becomes_full_in_the_middle_of_a_run_takes_what_it_has_room_for() -> None:
    info, state = staged(FEATURES)
    names = Names(info)
    size = next(table.size for table in info.tables if table.preamble.alias == "route")
    answers = together(state, entries(names, 1, size + 3))
    assert [one is not None for one in answers] == [False] * size + [True] * 3


def test_a_run_that_the_data_plane_refuses_is_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    info, state = staged(FEATURES)

    def refuse(table: str, keys: list[EntryKey], actions: list[TargetAction]) -> None:
        raise NoRoomError(f"{table} has no room for {len(keys)} and {len(actions)}")

    monkeypatch.setattr(state.pipeline, "insert_all", refuse)
    request = entries(Names(info), 1, 20)
    assert state.runs(request)
    assert together(state, request) == [None] * 20
    assert len(list(state.read(p4r.Entity(table_entry=p4r.TableEntry())))) >= 20


def test_runs_keep_the_order_of_updates_and_leave_room_for_packets() -> None:
    info, state = staged(FEATURES)
    names = Names(info)
    request = entries(names, 0xFF00, 3 * RUN)
    odd = names.entry("host", exact(1, 1), action=direct(names.action("punt")))
    request.updates.insert(RUN + 7, p4r.Update(type=INSERT, entity=p4r.Entity(table_entry=odd)))
    runs = state.runs(request)
    assert [(run.first, run.stop) for run in runs] == [
        (0, RUN),
        (RUN, RUN + 7),
        (RUN + 8, 2 * RUN + 8),
        (2 * RUN + 8, 3 * RUN + 1),
    ]
    assert [key for run in runs for key in run.keys] == [
        (((at << 8, 24),), 0) for at in range(0xFF00, 0xFF00 + 3 * RUN)
    ]
