"""Small BMv2 programs made in Python, and a switch to run them on.

Every program parses one header `input`, and sends `output` and then the payload to port 1. The tests
state the fields of both, and the tables and actions in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from finsy.proto import p4i

from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.pipeline import XdpPipeline

Json = dict[str, Any]
SOURCE = {"filename": "test.p4", "line": 7, "column": 1, "source_fragment": "fragment"}
STANDARD = [
    ["ingress_port", 9, False],
    ["egress_spec", 9, False],
    ["egress_port", 9, False],
    ["instance_type", 32, False],
    ["packet_length", 32, False],
    ["checksum_error", 1, False],
    ["parser_error", 32, False],
    ["_padding", 2, False],
]


def field(header: str, name: str) -> Json:
    return {"type": "field", "value": [header, name]}


def number(value: int) -> Json:
    return {"type": "hexstr", "value": hex(value)}


def assign(target: Json, value: Json) -> Json:
    return {"op": "assign", "parameters": [target, value], "source_info": SOURCE}


def action(
    ident: int, name: str, primitives: Sequence[Json], parameters: Mapping[str, int] | None = None
) -> Json:
    return {
        "name": name,
        "id": ident,
        "runtime_data": [{"name": n, "bitwidth": w} for n, w in (parameters or {}).items()],
        "primitives": list(primitives),
        "source_info": SOURCE,
    }


def call(name: str, ident: int, following: str | None) -> Json:
    """A call of action `ident` outside of any table."""
    return {
        "name": name,
        "id": 100 + ident,
        "key": [],
        "match_type": "exact",
        "type": "simple",
        "max_size": 16,
        "with_counters": False,
        "action_ids": [ident],
        "actions": [name],
        "base_default_next": following,
        "next_tables": {name: following},
        "default_entry": {
            "action_id": ident,
            "action_const": True,
            "action_data": [],
            "action_entry_const": True,
        },
    }


def table(
    name: str, keys: Sequence[tuple[str, str]], kind: str, actions: Mapping[int, str], **more: Any
) -> Json:
    """A table over fields of `input`; its default is the first of `actions`."""
    return {
        "name": name,
        "id": 200,
        "source_info": SOURCE,
        "key": [
            {"match_type": match, "name": key, "target": ["input", key], "mask": None} for key, match in keys
        ],
        "match_type": kind,
        "type": "simple",
        "max_size": 64,
        "with_counters": True,
        "action_ids": list(actions),
        "actions": list(actions.values()),
        "base_default_next": None,
        "next_tables": dict.fromkeys(actions.values()),
        "default_entry": {"action_id": next(iter(actions)), "action_data": [], "action_entry_const": False},
        **more,
    }


def program(
    inputs: Sequence[tuple[str, int]],
    outputs: Sequence[tuple[str, int]],
    actions: Sequence[Json],
    tables: Sequence[Json],
    **more: Any,
) -> Json:
    """The JSON of a program; action 0 is added, which sends to port 1 and makes `output` valid."""
    start = action(
        0,
        "start",
        [
            {"op": "add_header", "parameters": [{"type": "header", "value": "output"}]},
            {"op": "remove_header", "parameters": [{"type": "header", "value": "input"}]},
            assign(field("standard_metadata", "egress_spec"), number(1)),
        ],
    )
    first = tables[0]["name"] if tables else None
    return {
        "__meta__": {"version": [2, 23]},
        "program": "test.p4",
        "header_types": [
            {"name": "standard_metadata", "id": 0, "fields": STANDARD},
            {"name": "scalars_t", "id": 1, "fields": [["temporary", 32, False]]},
            {"name": "input_t", "id": 2, "fields": [[n, w, False] for n, w in inputs], "source_info": SOURCE},
            {"name": "output_t", "id": 3, "fields": [[n, w, False] for n, w in outputs]},
        ],
        "headers": [
            {"name": "scalars", "id": 0, "header_type": "scalars_t", "metadata": True},
            {"name": "standard_metadata", "id": 1, "header_type": "standard_metadata", "metadata": True},
            {"name": "input", "id": 2, "header_type": "input_t", "metadata": False},
            {"name": "output", "id": 3, "header_type": "output_t", "metadata": False},
        ],
        "header_stacks": [],
        "errors": [["NoError", 0], ["PacketTooShort", 1]],
        "parsers": [
            {
                "name": "parser",
                "id": 0,
                "init_state": "start",
                "parse_states": [
                    {
                        "name": "start",
                        "id": 0,
                        "parser_ops": [
                            {"op": "extract", "parameters": [{"type": "regular", "value": "input"}]}
                        ],
                        "transitions": [{"type": "default", "value": None, "mask": None, "next_state": None}],
                        "transition_key": [],
                    }
                ],
            }
        ],
        "deparsers": [{"name": "deparser", "id": 0, "order": ["output", "input"]}],
        "counter_arrays": [],
        "register_arrays": [],
        "meter_arrays": [],
        "calculations": [],
        "checksums": [],
        "actions": [start, *actions],
        "pipelines": [
            {
                "name": "ingress",
                "id": 0,
                "init_table": "start",
                "tables": [call("start", 0, first), *tables],
                "action_profiles": [],
                "conditionals": [],
            },
            {
                "name": "egress",
                "id": 1,
                "init_table": None,
                "tables": [],
                "action_profiles": [],
                "conditionals": [],
            },
        ],
        **more,
    }


def info_of(document: Json) -> p4i.P4Info:
    """The P4Info of a program's tables and actions, as far as the data plane looks at it."""
    info = p4i.P4Info()
    kinds = {"optional": "OPTIONAL", "exact": "EXACT", "lpm": "LPM", "ternary": "TERNARY", "range": "RANGE"}
    widths = {n: w for t in document["header_types"] for n, w, _ in t["fields"] if t["name"] == "input_t"}
    for entry in document["pipelines"][0]["tables"]:
        if entry["key"]:
            message = info.tables.add()
            message.preamble.name = entry["name"]
            for key in entry["key"]:
                match = message.match_fields.add(name=key["name"], bitwidth=widths[key["name"]])
                match.match_type = p4i.MatchField.MatchType.Value(kinds[key["match_type"]])
    return info


@contextmanager
def running(document: Json) -> Iterator[XdpPipeline]:
    """A switch without ports that runs the program, for `replay`."""
    device = XdpDevice(replays=True)
    try:
        pipeline = device.stage(json.dumps(document).encode(), info_of(document))
        device.activate(pipeline)
        yield pipeline
    finally:
        device.close()


def pack(fields: Sequence[tuple[str, int]], values: Mapping[str, int]) -> bytes:
    """The bytes of a header."""
    total = sum(width for _, width in fields)
    bits = 0
    for name, width in fields:
        bits = bits << width | values.get(name, 0) & (1 << width) - 1
    return bits.to_bytes(total // 8, "big")


def unpack(fields: Sequence[tuple[str, int]], data: bytes) -> dict[str, int]:
    """The fields of a header at the start of `data`."""
    total = sum(width for _, width in fields)
    bits = int.from_bytes(data[: total // 8], "big")
    values = {}
    for name, width in fields:
        total -= width
        values[name] = bits >> total & (1 << width) - 1
    return values
