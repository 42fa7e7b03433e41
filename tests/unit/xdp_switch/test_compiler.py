"""What the compiler refuses, and how it says so; what it makes of a program, as far as the C shows it."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4.xdp_switch.compiler import compile_program
from duet_p4.xdp_switch.compiler.entries import Strategy
from duet_p4.xdp_switch.compiler.ir import FieldRef
from duet_p4.xdp_switch.compiler.lookup.masked import range_masks
from duet_p4.xdp_switch.compiler.names import Names
from duet_p4.xdp_switch.compiler.optimize import optimize
from duet_p4.xdp_switch.compiler.reader import read
from duet_p4.xdp_switch.compiler.shapes import extracted_in_order, parsed_shapes
from duet_p4.xdp_switch.compiler.structs import Struct
from duet_p4.xdp_switch.dataplane import UnsupportedError
from duet_p4.xdp_switch.pipeline import build

ROOT = Path(__file__).parents[3]
PROGRAMS = sorted((ROOT / "tests" / "p4" / "build").glob("*.json"))
HMUX = ROOT / "p4src" / "build" / "hmux.json"
Json = dict[str, Any]


def document(path: Path = ROOT / "tests" / "p4" / "build" / "l3_router.json") -> Json:
    loaded: Json = json.loads(path.read_text())
    return loaded


def source(line: int) -> Json:
    return {"filename": "some/where.p4", "line": line, "column": 1, "source_fragment": "the.text()"}


def primitive(op: str, *parameters: Json) -> Json:
    return {"op": op, "parameters": list(parameters), "source_info": source(12)}


def first_action(changed: Json, step: Json) -> None:
    next(a for a in changed["actions"] if a["primitives"])["primitives"].insert(0, step)


def with_primitive(op: str) -> Callable[[Json], None]:
    return lambda changed: first_action(changed, primitive(op))


def with_list(key: str) -> Callable[[Json], None]:
    return lambda changed: changed[key].append({"name": "thing", "id": 99, "source_info": source(3)})


def wide_parameter(changed: Json) -> None:
    action = next(a for a in changed["actions"] if a["runtime_data"])
    action["runtime_data"][0]["bitwidth"] = 200
    action["source_info"] = source(5)


def unknown_hash(changed: Json) -> None:
    changed["calculations"][0]["source_info"] = source(8)
    changed["calculations"][0]["algo"] = "toeplitz"


def huge_trie(changed: Json) -> None:
    table = next(t for t in changed["pipelines"][0]["tables"] if t["match_type"] == "lpm")
    table["max_size"] = 1 << 20
    table["source_info"] = source(4)


REFUSED: dict[str, tuple[Callable[[Json], None], str]] = {
    "unknown extern": (with_primitive("_my_extern_go"), "primitive _my_extern_go is not supported"),
    "extern": (with_list("extern_instances"), "extern instance thing is not supported"),
    "wide parameter": (wide_parameter, "of 200 bits, more than 128, is not supported, at where.p4:5"),
    "huge trie": (huge_trie, "of 1048576 entries, more than 1048575, is not supported, at where.p4:4"),
    "hash": (unknown_hash, "hash algorithm toeplitz is not supported, at where.p4:8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_named_with_its_line(what: str) -> None:
    change, expected = REFUSED[what]
    changed = document()
    compile_program(json.dumps(changed).encode(), 1)
    change(changed)
    with pytest.raises(UnsupportedError) as caught:
        compile_program(json.dumps(changed).encode(), 1)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "config", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"__meta__": {"version": [2, 7]}}', b'{"__meta__": 3}']
)
def test_what_is_no_bmv2_json_is_a_value_error(config: bytes) -> None:
    with pytest.raises(ValueError, match="BMv2 JSON"):
        compile_program(config, 1)


def test_another_major_version_is_refused() -> None:
    changed = document()
    changed["__meta__"]["version"] = [3, 0]
    with pytest.raises(ValueError, match=r"version \(3, 0\) is unknown"):
        compile_program(json.dumps(changed).encode(), 1)


@pytest.mark.parametrize("path", [*PROGRAMS, HMUX], ids=lambda path: path.stem)
def test_the_c_names_every_table_with_its_line(path: Path) -> None:
    compiled = compile_program(path.read_bytes(), 2)
    for table in compiled.program.tables().values():
        if table.keys:
            assert f"/* table {table.name}, {table.source}: " in compiled.source


def test_hmux_tables_get_the_fast_lookups() -> None:
    tables = compile_program(HMUX.read_bytes(), 1).tables
    chosen = {name.rsplit(".", 1)[-1]: layout.strategy for name, layout in tables.items()}
    assert chosen["host_table"] == Strategy.HASH
    assert chosen["ecmp_table"] == Strategy.INDEX
    assert chosen["tunneling_table"] == Strategy.INDEX
    assert chosen["route_table"] == Strategy.TRIE


def test_metadata_that_nothing_reads_is_left_out() -> None:
    compiled = compile_program(HMUX.read_bytes(), 1)
    for unread in ("enq_timestamp", "deq_qdepth", "egress_rid", "ingress_global_timestamp"):
        assert unread not in compiled.source, f"{unread} is copied, but never used"


def test_the_kinds_of_packets_that_a_parser_tells_most_of_have_a_path_of_their_own() -> None:
    program = optimize(read(HMUX.read_bytes()))
    plain, tunneled = frozenset({"ethernet", "ipv4"}), frozenset({"ethernet", "outer_ipv4", "ipv4"})
    assert parsed_shapes(program) == [plain, tunneled]
    # The header of a tunnel is a copy of what was extracted in the place of the packet's own.
    for shape, in_order in ((plain, True), (tunneled, False)):
        headers = [program.headers[name] for name in program.deparser if name in shape]
        assert extracted_in_order(program, headers, shape) is in_order
    assert not extracted_in_order(program, headers[:-1], tunneled)


def inputs_of_hash(changed: Json) -> list[str]:
    program = optimize(read(json.dumps(changed).encode()))
    (calculation,) = (c for c in program.calculations.values() if c.algorithm == "crc32")
    return [piece.value.field for piece in calculation.inputs if isinstance(piece.value, FieldRef)]


def test_a_hash_that_one_step_uses_takes_metadata_where_it_lies() -> None:
    changed = document(HMUX)
    assert all("flow_" in field for field in inputs_of_hash(changed))
    # Another step that uses it may have other copies.
    step = next(
        step
        for action in changed["actions"]
        for step in action["primitives"]
        if step["op"] == "modify_field_with_hash_based_offset" and step["parameters"][2]["value"] == "calc_0"
    )
    first_action(changed, step)
    assert all(field.startswith("tmp_") for field in inputs_of_hash(changed))


def test_structs_are_packed_as_c_lays_them_out() -> None:
    layout = Struct([("small", 9), ("huge", 128), ("middle", 32)], 4)
    assert layout.declarations() == [
        "__u64 huge_high;",
        "__u64 huge_low;",
        "__u32 middle;",
        "__u16 small;",
        "__u8 padding[2];",
    ]
    data = layout.pack([0x1FF, 1 << 64 | 2, 3])
    assert data == bytes.fromhex("0100000000000000 0200000000000000 03000000 ff01 0000")
    assert layout.size == len(data) == 24


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 0), (255, 255), (1, 254), (3, 17), (128, 129)])
def test_ranges_become_masks_that_match_the_same(low: int, high: int) -> None:
    masks = list(range_masks(low, high, 8))
    for value in range(256):
        matching = sum(1 for wanted, mask in masks if value & mask == wanted)
        assert matching == (1 if low <= value <= high else 0), f"{value} matches {matching} of {masks}"


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from nodes(inner)


DAMAGE = [None, -1, 1 << 70, "", "0x", "start", [], {}, True, [["a", 0]], 1.5]


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_program_is_refused_or_compiled_but_never_crashes(seed: int) -> None:
    chance = random.Random(seed)
    changed = document(chance.choice([*PROGRAMS, HMUX]))
    for _ in range(chance.choice([1, 1, 3])):
        container, key = chance.choice(list(nodes(changed)))
        if chance.random() < 0.3:
            del container[key]
        else:
            container[key] = chance.choice(DAMAGE)
    with suppress(ValueError, UnsupportedError):
        compile_program(json.dumps(changed).encode(), 1)


NAMES = st.one_of(
    st.sampled_from(
        [
            "if",
            "int",
            "short",
            "register",
            "double",
            "auto",
            "static",
            "volatile",
            "class",
            "padding",
            "end",
            "s",
        ]
    ),
    st.text("ab_", min_size=1, max_size=4),
    st.lists(st.text("ab_", min_size=1, max_size=3), min_size=2, max_size=3).map(".".join),
)


@given(st.lists(NAMES, unique=True, max_size=30))
def test_names_are_identifiers_and_no_two_are_one(names: list[str]) -> None:
    known = Names()
    made = [known("table", name) for name in names]
    assert len(set(made)) == len(names), dict(zip(names, made, strict=True))
    assert all(f"table_{name}".isidentifier() for name in made)
    assert [known("table", name) for name in names] == made, "a name has one identifier"


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(k, k): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


@settings(max_examples=8, deadline=None)
@given(st.lists(NAMES, min_size=24, max_size=24, unique=True))
def test_a_program_compiles_whatever_its_names_are(names: list[str]) -> None:
    changed = document(ROOT / "tests" / "p4" / "build" / "stateful.json")
    originals = {t["name"] for p in changed["pipelines"] for t in p["tables"]}
    originals |= {h["name"] for h in changed["headers"] if not h["metadata"]}
    originals |= {s["name"] for s in changed["parsers"][0]["parse_states"] if s["name"] != "start"}
    originals |= {c["name"] for key in ("counter_arrays", "register_arrays") for c in changed[key]}
    originals |= {p["name"] for a in changed["actions"] for p in a["runtime_data"]}
    chosen = dict(zip(sorted(originals), names, strict=False))
    build(compile_program(json.dumps(renamed(changed, chosen)).encode(), 1))


def test_a_device_config_of_p4langs_clients_is_unwrapped() -> None:
    config = (ROOT / "tests" / "p4" / "build" / "labels.json").read_bytes()
    length = len(config)
    varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    # p4.tmp.P4DeviceConfig: `reassign` false, `extras` with one byte string, `device_data` the JSON.
    wrapped = b"\x08\x00" + b"\x12\x02\x0a\x00" + b"\x1a" + varint + config
    assert compile_program(wrapped, 1).source == compile_program(config, 1).source


def test_the_error_of_what_is_no_json_stays_short() -> None:
    with pytest.raises(ValueError, match="no BMv2 JSON") as caught:
        compile_program(b"\x1a" + bytes(range(256)) * 100, 1)
    assert len(str(caught.value)) < 400


def test_transitions_of_old_compilers_have_no_type() -> None:
    changed = document(ROOT / "tests" / "p4" / "build" / "labels.json")
    for state in changed["parsers"][0]["parse_states"]:
        for transition in state["transitions"]:
            if transition.pop("type") == "default":
                transition["value"] = "default"
    assert compile_program(json.dumps(changed).encode(), 1).source


def test_a_direct_counter_of_a_table_without_keys_counts_nothing() -> None:
    changed = document()
    table = next(t for t in changed["pipelines"][0]["tables"] if not t["key"])
    table["with_counters"] = True
    table["default_entry"]["action_entry_const"] = False
    build(compile_program(json.dumps(changed).encode(), 1))


def test_what_is_read_for_nobody_takes_no_index_either() -> None:
    """A register's cell, read into metadata that nothing reads, by an index that nothing else reads."""
    changed = document()
    scalars = next(h for h in changed["header_types"] if h["name"].startswith("scalars"))
    scalars["fields"][:0] = [["for_nobody", 8, False], ["index", 32, False]]
    changed["register_arrays"].append({"name": "cells", "id": 0, "size": 4, "bitwidth": 8})
    target, index = ({"type": "field", "value": ["scalars", name]} for name in ("for_nobody", "index"))
    cells = {"type": "register_array", "value": "cells"}
    first_action(changed, primitive("register_read", target, cells, index))
    first_action(changed, primitive("assign", index, {"type": "hexstr", "value": "0x2"}))
    assert compile_program(json.dumps(changed).encode(), 1).source


def test_the_docs_show_c_that_is_emitted() -> None:
    page = (ROOT / "docs" / "xdp.md").read_text()
    shown = page.split("```c\n")[1].split("```")[0].strip()
    source = compile_program((ROOT / "tests" / "p4" / "build" / "l3_router.json").read_bytes(), 2).source
    for excerpt in shown.split("\n\n"):
        assert excerpt in source, excerpt
