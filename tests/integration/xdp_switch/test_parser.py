"""What the parser does where no header and no stack bounds it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.programs import action, assign, call, field, number, program, running

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]

FIELDS = [("word", 32), ("error", 32), ("more", 64)]
TOO_SHORT, TIMEOUT = 1, 5


def endless() -> dict[str, Any]:
    """A program whose parser goes on, a byte at a time, for as long as it is let."""
    told = assign(field("output", "error"), field("standard_metadata", "parser_error"))
    made = program(FIELDS, FIELDS, [action(1, "tell", [told])], [call("tell", 1, None)])
    made["errors"] = [["NoError", 0], ["PacketTooShort", TOO_SHORT], ["ParserTimeout", TIMEOUT]]
    again = {"type": "default", "value": None, "mask": None, "next_state": "round"}
    states = made["parsers"][0]["parse_states"]
    states[0]["transitions"] = [again]
    states.append(
        {
            "name": "round",
            "id": 1,
            "parser_ops": [{"op": "advance", "parameters": [number(8)]}],
            "transitions": [again],
            "transition_key": [],
        }
    )
    return made


def test_a_parser_that_never_ends_is_ended() -> None:
    with running(endless()) as pipeline:
        for length, expected in ((20, TOO_SHORT), (30, TOO_SHORT), (60, TIMEOUT), (1000, TIMEOUT)):
            ((_, sent),) = pipeline.replay(programs.pack(FIELDS, {"word": 7}) + bytes(length), 1)
            assert programs.unpack(FIELDS, sent)["error"] == expected, f"{length} bytes"
