"""Tables of every kind find what a plain search finds, while entries come, change and go."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from duet_p4.xdp_switch.dataplane import (
    Call,
    EntryKey,
    GroupHandle,
    MatchValues,
    MemberHandle,
    NoRoomError,
    UnsupportedError,
)
from duet_p4.xdp_switch.pipeline import XdpPipeline
from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.programs import Json

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

INPUTS = [("a", 32), ("b", 16), ("c", 9), ("d", 7), ("e", 128), ("f", 20), ("g", 4)]
OUTPUTS = [("number", 32), ("wide", 128)]
WIDTHS = dict(INPUTS)
SIZE = 64
MISS = 0xFFFFFFFF
ROUNDS = 1200

Choose = Callable[[random.Random], MatchValues]


def document(keys: Sequence[tuple[str, str]], kind: str) -> Json:
    missed = programs.action(
        1, "missed", [programs.assign(programs.field("output", "number"), programs.number(MISS))]
    )
    found = programs.action(
        2,
        "found",
        [
            programs.assign(programs.field("output", "number"), {"type": "runtime_data", "value": 0}),
            programs.assign(programs.field("output", "wide"), {"type": "runtime_data", "value": 1}),
        ],
        {"number": 32, "wide": 128},
    )
    tested = programs.table("tested", keys, kind, {1: "missed", 2: "found"}, max_size=SIZE)
    return programs.program(INPUTS, OUTPUTS, [missed, found], [tested])


def field_matches(kind: str, width: int, held: object, value: int) -> bool:
    if held is None:
        return True
    if isinstance(held, int):
        return held == value
    assert isinstance(held, tuple)
    first, second = held
    if kind == "lpm":
        return value >> width - second == first >> width - second
    if kind == "range":
        return bool(first <= value <= second)
    return value & second == first


def search(
    keys: Sequence[tuple[str, str]],
    kind: str,
    entries: dict[tuple[MatchValues, int], int],
    values: dict[str, int],
) -> set[int]:
    """What may be found: the entries of the highest priority among those that match."""
    best: dict[int, set[int]] = {}
    for (key, priority), number in entries.items():
        if all(
            field_matches(match, WIDTHS[name], held, values[name])
            for (name, match), held in zip(keys, key, strict=True)
        ):
            lengths = [v[1] for (_, match), v in zip(keys, key, strict=True) if match == "lpm"]
            rank = lengths[0] if kind == "lpm" else priority
            best.setdefault(rank, set()).add(number)
    return best[max(best)] if best else {MISS}


def near(chance: random.Random, width: int) -> int:
    """A value from few enough that entries and packets meet."""
    value = chance.choice([0, 1, 2, 3, 5, 0xFF, -1, chance.getrandbits(width), 10 << width >> 8])
    flipped = chance.getrandbits(3) << max(0, width - chance.choice([4, 9, 20]))
    return (value ^ flipped) & (1 << width) - 1


def element(chance: random.Random, kind: str, width: int) -> object:
    value, full = near(chance, width), (1 << width) - 1
    if kind == "exact":
        return value
    if kind == "optional":
        return chance.choice([None, value])
    if kind == "lpm":
        length = chance.choice([0, 1, width, chance.randrange(width + 1), min(width, 16), min(width, 17)])
        return value & full ^ value & full >> length, length
    if kind == "range":
        return tuple(sorted((value, near(chance, width))))
    mask = chance.choice([0, full, full ^ 3, full >> 4, chance.choice([1, 3, 0x55])]) & full
    return value & mask, mask


def inside(keys: Sequence[tuple[str, str]], key: MatchValues) -> dict[str, int]:
    """Values that an entry matches."""
    held = zip(keys, key, strict=True)
    return {name: v if isinstance(v, int) else v[0] for (name, _), v in held if v is not None}


CASES = {
    "index": ([("c", "exact")], "exact"),
    "hash": ([("a", "exact"), ("e", "exact")], "exact"),
    "hash of one wide field": ([("e", "exact")], "exact"),
    "trie": ([("a", "lpm")], "lpm"),
    "trie of 20 bits": ([("f", "lpm")], "lpm"),
    "trie of 9 bits": ([("c", "lpm")], "lpm"),
    "masked, LPM of 128 bits": ([("e", "lpm")], "lpm"),
    "masked, exact and LPM": ([("b", "exact"), ("a", "lpm")], "lpm"),
    "masked, ternary": ([("a", "ternary"), ("e", "ternary"), ("c", "exact")], "ternary"),
    "masked, range and optional": ([("b", "range"), ("c", "optional"), ("a", "lpm")], "range"),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[XdpPipeline, list[tuple[str, str]], str]]:
    keys, kind = CASES[request.param]
    with programs.running(document(keys, kind)) as pipeline:
        yield pipeline, keys, kind


def test_lookups_equal_a_plain_search(case: tuple[XdpPipeline, list[tuple[str, str]], str]) -> None:
    pipeline, keys, kind = case
    chance = random.Random(str(keys))
    entries: dict[tuple[MatchValues, int], int] = {}
    expected_hits: dict[tuple[MatchValues, int], int] = {}
    serials = count(1)

    def draw() -> EntryKey:
        key = tuple(element(chance, match, WIDTHS[name]) for name, match in keys)
        return key, chance.randrange(1, 20) if kind in ("ternary", "range") else 0

    for _ in range(1, ROUNDS):
        serial, entry = next(serials), draw()
        if entry in entries or len(entries) == SIZE or chance.random() < 0.2:
            if not entries:
                continue
            entry = entry if entry in entries else chance.choice(list(entries))
            if chance.random() < 0.5:
                pipeline.modify("tested", *entry, Call("found", (serial, serial << 90)))
                entries[entry] = serial
            else:
                gone = {entry, chance.choice(list(entries))}
                pipeline.delete_all("tested", list(gone))
                for one in gone:
                    del entries[one], expected_hits[one]
        else:
            drawn = {entry, *(draw() for _ in range(chance.randrange(3)))} - entries.keys()
            fresh = {one: next(serials) for one in sorted(drawn, key=str)[: SIZE - len(entries)]}
            try:
                calls = [Call("found", (number, number << 90)) for number in fresh.values()]
                pipeline.insert_all("tested", list(fresh), calls)
            except NoRoomError as error:
                assert "tested" in str(error)
                continue
            entries |= fresh
            expected_hits |= dict.fromkeys(fresh, 0)
        for _ in range(3):
            values = {name: near(chance, width) for name, width in INPUTS}
            if entries and chance.random() < 0.5:
                values |= inside(keys, chance.choice(list(entries))[0])
            sent = pipeline.replay(programs.pack(INPUTS, values) + bytes(9), 1)[0][1]
            got = programs.unpack(OUTPUTS, sent)
            wanted = search(keys, kind, entries, values)
            assert got["number"] in wanted, f"{values} in {entries}: {got['number']:#x}, not {wanted}"
            if got["number"] != MISS:
                assert got["wide"] == got["number"] << 90
                expected_hits[next(e for e, n in entries.items() if n == got["number"])] += 1
    assert sum(expected_hits.values()) > 20, "too few packets hit to prove anything"
    counts = dict(zip(entries, pipeline.read_direct("tested", list(entries)), strict=True))
    length = sum(WIDTHS.values()) // 8 + 9
    assert counts == {entry: (hits, hits * length) for entry, hits in expected_hits.items()}


def test_a_full_table_refuses_and_keeps_what_it_holds() -> None:
    with programs.running(document([("a", "exact"), ("b", "exact")], "exact")) as pipeline:
        for number in range(SIZE):
            pipeline.insert("tested", (number, 0), 0, Call("found", (number, 0)))
        with pytest.raises(NoRoomError, match="table tested is full: it holds 64 entries"):
            pipeline.insert("tested", (SIZE, 0), 0, Call("found", (1, 1)))
        pipeline.modify("tested", (5, 0), 0, Call("found", (77, 0)))
        frame = programs.pack(INPUTS, {"a": 5}) + bytes(9)
        assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == 77


def test_the_default_action_can_be_set_and_reset() -> None:
    with programs.running(document([("c", "exact")], "exact")) as pipeline:
        frame = programs.pack(INPUTS, {"c": 5}) + bytes(9)
        for number in (3, 4):
            pipeline.set_default("tested", Call("found", (number, 0)))
            assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == number
        pipeline.set_default("tested", None)
        assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == MISS


def test_counters_can_be_written_and_restart_with_a_new_entry() -> None:
    with programs.running(document([("c", "exact")], "exact")) as pipeline:
        pipeline.insert("tested", (5,), 0, Call("found", (1, 0)))
        pipeline.write_direct("tested", (5,), 0, (10, 1000))
        frame = programs.pack(INPUTS, {"c": 5}) + bytes(9)
        pipeline.replay(frame, 1)
        assert pipeline.read_direct("tested", [((5,), 0)]) == [(11, 1000 + len(frame))]
        pipeline.delete("tested", (5,), 0)
        for value in range(SIZE):
            pipeline.insert("tested", (value,), 0, Call("found", (1, 0)))
        assert pipeline.read_direct("tested", [((value,), 0) for value in range(SIZE)]) == [(0, 0)] * SIZE


def stated(masks: int) -> Json:
    """A program that states an entry under each of so many masks."""
    changed = document([("a", "ternary"), ("e", "ternary")], "ternary")
    table = changed["pipelines"][0]["tables"][-1]
    table["max_size"] = 100
    table["entries"] = [
        {
            "match_key": [
                {"match_type": "ternary", "key": "0x0", "mask": "0x0"},
                {"match_type": "ternary", "key": hex(1 << number), "mask": hex(1 << number)},
            ],
            "action_entry": {"action_id": 2, "action_data": [hex(number), "0x0"]},
            "priority": number + 1,
        }
        for number in range(masks)
    ]
    return changed


def test_const_entries_may_have_64_masks_and_more_are_refused() -> None:
    with programs.running(stated(64)) as pipeline:
        frame = programs.pack(INPUTS, {"e": 1 << 63}) + bytes(9)
        assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == 63
    with (
        pytest.raises(UnsupportedError, match=r"the const entries of tested: .* 64 different masks"),
        programs.running(stated(65)),
    ):
        pass


@pytest.mark.parametrize("reference", [MemberHandle(1), GroupHandle(0)], ids=["member", "group"])
def test_a_packet_whose_member_goes_away_meanwhile_runs_no_action(
    reference: MemberHandle | GroupHandle,
) -> None:
    """It has read the reference, and finds nothing behind it: not the action whose number is 0."""
    made = document([("c", "exact")], "exact")
    inputs = [programs.field("input", "a")]
    selector = {"algo": "crc16", "input": inputs}
    made["pipelines"][0]["action_profiles"] = [
        {"name": "members", "id": 0, "max_size": 8, "selector": selector}
    ]
    table = made["pipelines"][0]["tables"][-1]
    del table["default_entry"]
    table |= {"type": "indirect_ws", "action_profile": "members"}
    with programs.running(made) as pipeline:
        pipeline.set_member("members", 1, Call("found", (7, 0)))
        pipeline.set_group("members", 0, [1])
        pipeline.insert("tested", (5,), 0, reference)
        frame = programs.pack(INPUTS, {"c": 5}) + bytes(9)
        assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == 7
        pipeline.delete_member("members", 1)
        assert programs.unpack(OUTPUTS, pipeline.replay(frame, 1)[0][1])["number"] == 0, "missed: MISS"
