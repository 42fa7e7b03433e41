"""A model of the switch predicts the answer to each of thousands of random updates, and what is held then."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.staging import stage
from ptf_tests.fuzzer.run import fuzz
from tests.unit.p4runtime.memory import MemoryDevice

ROOT = Path(__file__).parents[3]
PROGRAMS = [
    ROOT / "p4src" / "build" / "hmux.json",
    *sorted((ROOT / "tests" / "p4" / "build").glob("*.json")),
    *(Path(__file__).with_name(f"{name}.json") for name in ("features", "entities")),
]
UPDATES = 2000


def staged(path: Path) -> tuple[p4i.P4Info, ForwardingState]:
    """A program in front of the data plane in memory."""
    info = text_format.Parse(path.with_suffix(".p4info.txtpb").read_text(), p4i.P4Info())
    config = p4r.ForwardingPipelineConfig(p4info=info, p4_device_config=path.read_bytes())
    return info, asyncio.run(stage(MemoryDevice(), config, {})).forwarding


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_the_switch_answers_as_the_model_says(path: Path) -> None:
    info, state = staged(path)
    violations = list(islice(fuzz(info, state, seed=7, updates=UPDATES), 5))
    assert not violations, "\n".join(violations)


def test_an_answer_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    info, state = staged(PROGRAMS[-1])
    write = state.write

    def forgetful(update: p4r.Update, role: str = "") -> None:
        if not (update.type == p4r.Update.DELETE and update.entity.HasField("table_entry")):
            write(update, role)

    monkeypatch.setattr(state, "write", forgetful)
    assert any("only the switch holds" in said for said in fuzz(info, state, seed=7, updates=UPDATES))
