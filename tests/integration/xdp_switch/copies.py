"""Programs that emit `input` again, more than once, made in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.programs import action, call, program

Json = dict[str, Any]
FIELDS = [("word", 32), ("rest", 32), ("more", 64)]


def primitive(op: str, *parameters: Json) -> Json:
    return {"op": op, "parameters": list(parameters), "source_info": programs.SOURCE}


def document(
    ingress: Sequence[Json], egress: Sequence[Json] = (), preserved: Sequence[tuple[str, str]] = ()
) -> Json:
    """A program that emits `input` again, with these steps in its pipelines."""
    made = program(
        FIELDS,
        FIELDS,
        [action(1, "here", ingress), action(2, "there", egress)],
        [call("here", 1, None)],
        field_lists=[
            {
                "id": 1,
                "name": "kept",
                "elements": [{"type": "field", "value": list(name)} for name in preserved],
            }
        ],
    )
    standard = made["header_types"][0]["fields"]
    standard[-1:] = [["mcast_grp", 16, False], ["egress_rid", 16, False], ["_padding", 2, False]]
    made["header_types"][1]["fields"].append(["kept", 32, False])
    made["actions"][0]["primitives"] = made["actions"][0]["primitives"][2:]
    made["pipelines"][1]["tables"] = [call("there", 2, None)]
    made["pipelines"][1]["init_table"] = "there"
    return made


def words(left: list[tuple[int, bytes]]) -> list[tuple[int, int, int]]:
    """(port, word, rest) of what left."""
    return [(port, int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")) for port, data in left]


FRAME = programs.pack(FIELDS, {"word": 7, "rest": 9}) + bytes(range(20))
