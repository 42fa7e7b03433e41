"""Updates that are carried out together end as they do one at a time: answers, and what is held then."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import EntryKey, NoRoomError, TargetAction
from duet_p4.xdp_switch.p4runtime.batch import Batch
from duet_p4.xdp_switch.p4runtime.bulk import FEW, RUN, Run
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.rollback import apply_or_roll_back
from ptf_tests.fuzzer.generate import FAULTS, KINDS, Generator
from ptf_tests.fuzzer.run import held
from tests.unit.p4runtime.client import INSERT, Names, canonical, direct, exact, lpm
from tests.unit.p4runtime.test_model import PROGRAMS, ROOT, staged

TABLES = [path for path in PROGRAMS if path.stem in ("hmux", "labels", "features", "entities")]
BATCHES = 240
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


class Spread(Generator):
    """Numbers of several lengths, of which few meet."""

    def value(self, width: int) -> bytes:
        if not width:
            return super().value(width)
        bits = self.rng.choices((2, 12, 64, 128), (1, 8, 6, 2))[0]
        return canonical(self.rng.getrandbits(bits) & (1 << width) - 1)


def fields(entry: p4r.TableEntry) -> list[object]:
    """Return what is not a number of an entry, nearly."""
    return [
        entry.action.action.action_id,
        *((m.field_id, m.WhichOneof("field_match_type")) for m in entry.match),
    ]


def burst(generator: Spread, state: ForwardingState, table: p4i.Table) -> Iterator[p4r.Update]:
    """Yield updates of a table that are much alike, of entries there are or new ones; some are wrong."""
    rng = generator.rng
    kind, model = rng.choices(KINDS, (3, 2, 1))[0], generator.entry(table).table_entry
    query = p4r.Entity(table_entry=p4r.TableEntry(table_id=table.preamble.id))
    known = [entity.table_entry for entity in state.read(query)]
    rng.shuffle(known)
    mishaps = rng.random() < 0.3
    for _ in range(rng.randint(1, 4 * FEW)):
        tries = (generator.entry(table).table_entry for _ in range(20))
        entry = next((entry for entry in tries if fields(entry) == fields(model)), model)
        if known and (kind != INSERT) == (rng.random() < 0.98):
            before = known.pop()
            del entry.match[:]
            entry.match.extend(before.match)
            entry.priority = before.priority
        if rng.random() < 0.98:
            entry.metadata = model.metadata
        update = p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))
        if mishaps and rng.random() < 0.1:
            rng.choice(FAULTS).spoil(update.entity, generator)
        yield update


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_batch_ends_as_its_updates_one_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (info, bulk), (_, plain) = staged(path), staged(path)
    rng = random.Random(7)
    generator = Spread(info, rng)
    tables = [table for table in info.tables if table.match_fields]
    ended: set[tuple[int, bool]] = set()
    write_run = bulk.write_run

    def noted(run: Run, role: str) -> bool:
        taken = write_run(run, role)
        ended.add((run.form.kind, taken))
        return taken

    monkeypatch.setattr(bulk, "write_run", noted)
    for _ in range(BATCHES):
        request = p4r.WriteRequest(device_id=1)
        for _ in range(rng.randint(1, 3)):
            request.updates.extend(burst(generator, plain, rng.choice(tables)))
        assert together(bulk, request) == one_at_a_time(plain, request)
    assert everything(info, bulk) == everything(info, plain)
    assert ended == {(kind, taken) for kind in KINDS for taken in (True, False)}, "too little was tried"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_batch_with_runs_is_carried_out_whole_or_taken_back(path: Path) -> None:
    (info, whole), (_, plain) = staged(path), staged(path)
    rng = random.Random(11)
    generator = Spread(info, rng)
    tables = [table for table in info.tables if table.match_fields]
    ended = set()
    for _ in range(BATCHES):
        request = p4r.WriteRequest(device_id=1)
        for _ in range(rng.randint(1, 2)):
            request.updates.extend(burst(generator, whole, rng.choice(tables)))
        runs = whole.runs(request)
        before = everything(info, whole)
        results = apply_or_roll_back(Batch(whole, request.updates, runs), "")
        ended.add((bool(runs), any(results)))
        if any(results):
            assert everything(info, whole) == before
        else:
            assert one_at_a_time(plain, request) == [None] * len(results)
            assert everything(info, whole) == everything(info, plain)
    assert len(ended) == 4, "too little was tried"


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
    request = entries(Names(info), 1, 6)
    assert state.runs(request)
    assert together(state, request) == [None] * 6
    assert len(list(state.read(p4r.Entity(table_entry=p4r.TableEntry())))) >= 6


def test_numbers_of_more_than_64_bits_are_taken_out_as_others_are() -> None:
    info, state = staged(next(path for path in PROGRAMS if path.stem == "labels"))
    table = next(t for t in info.tables if any(f.bitwidth == 128 for f in t.match_fields))
    prefixes = [(0x2001_0DB8 << 96 | at << 64, 64) for at in range(6)] + [(5, 128)]
    request = p4r.WriteRequest(device_id=1)
    generator = Spread(info, random.Random(1))
    models = (generator.entry(table).table_entry for _ in range(100))
    model = next(entry for entry in models if entry.match and entry.action.HasField("action"))
    for value, length in prefixes:
        update = request.updates.add(type=INSERT)
        update.entity.table_entry.CopyFrom(model)
        (match,) = update.entity.table_entry.match
        match.lpm.value, match.lpm.prefix_len = canonical(value), length
    (run,) = state.runs(request)
    assert [key for key, _ in run.keys] == [(prefix,) for prefix in prefixes[:6]]
    assert together(state, request) == [None] * 7


def test_a_first_large_write_waits_for_no_import() -> None:
    said = """if True:
        import sys
        from tests.unit.p4runtime.test_bulk import FEATURES, Names, entries, staged, together
        info, state = staged(FEATURES)
        request, before = entries(Names(info), 1, 6), set(sys.modules)
        assert state.runs(request) and together(state, request) == [None] * 6
        print({*sys.modules} - before)
    """
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


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
