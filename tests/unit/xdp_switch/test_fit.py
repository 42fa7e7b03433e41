"""A P4Info that is not the JSON's is refused, by what differs; what p4c itself lets differ is not."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4i, p4r
from google.protobuf import text_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_p4.xdp_switch import fit
from duet_p4.xdp_switch.compiler import compile_program
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.names import EVERYTHING, defaults
from duet_p4.xdp_switch.p4runtime.staging import stage
from tests.unit.p4runtime.memory import MemoryDevice

FEATURES = Path(__file__).parents[1] / "p4runtime"
PROGRAM = compile_program((FEATURES / "features.json").read_bytes(), cpus=1).program


def info() -> p4i.P4Info:
    return text_format.Parse((FEATURES / "features.p4info.txtpb").read_text(), p4i.P4Info())


def named(message: p4i.P4Info, alias: str):
    groups = (message.tables, message.actions, message.counters, message.registers, message.action_profiles)
    return next(item for items in groups for item in items if item.preamble.alias == alias)


def rename(alias: str) -> Callable[[p4i.P4Info], None]:
    return lambda message: setattr(named(message, alias).preamble, "name", "Other.name")


def test_the_p4info_of_the_program_fits() -> None:
    widths = fit.check(info(), PROGRAM)
    assert widths.parameters["IngressImpl.forward"] == [9, 48]
    assert widths.keys["IngressImpl.acl"] == [32, 8, 9]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: setattr(named(i, "drops"), "size", 16), "counter IngressImpl.drops has 16 cells"),
        (lambda i: setattr(named(i, "seen"), "size", 8), "register IngressImpl.seen has 8 cells"),
        (
            lambda i: setattr(named(i, "seen").type_spec.bitstring.bit, "bitwidth", 16),
            "register IngressImpl.seen has 16 bits",
        ),
        (rename("drops"), "a counter Other.name"),
        (rename("seen"), "a register Other.name"),
        (rename("next_hops"), "an action profile Other.name"),
        (rename("host"), "a table Other.name, the pipeline config has none, but a table IngressImpl.host"),
        (rename("forward"), "an action Other.name"),
        (lambda i: named(i, "forward").params.pop(), "the parameters of action IngressImpl.forward"),
        (lambda i: setattr(named(i, "forward").params[0], "bitwidth", 8), "IngressImpl.forward"),
        (lambda i: setattr(named(i, "host").match_fields[0], "bitwidth", 31), "has 31 bits"),
        (lambda i: setattr(named(i, "route").match_fields[0], "match_type", 2), "is matched exact"),
        (lambda i: named(i, "acl").match_fields.pop(), "table IngressImpl.acl has 2 fields"),
        (
            lambda i: setattr(named(i, "next_hops"), "with_selector", False),
            "next_hops has a selector in only",
        ),
        (
            lambda i: i.direct_counters.add(direct_table_id=named(i, "route").preamble.id),
            "table IngressImpl.route has a direct counter",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[p4i.P4Info], object], said: str) -> None:
    changed = info()
    change(changed)
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        fit.check(changed, PROGRAM)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: setattr(i.meters[0], "size", 5), "meter IngressImpl.ports has 5 cells"),
        (lambda i: setattr(i.meters[0].preamble, "name", "other"), "has a meter other"),
        (
            lambda i: i.direct_meters.add(direct_table_id=unmetered(i)),
            "has a direct meter in the P4Info, none",
        ),
        (lambda i: setattr(i.value_sets[0].preamble, "name", "other"), "has a value set other"),
        (lambda i: i.value_sets[0].match.add(id=2, bitwidth=8), "routed_types has 2 fields in the P4Info, 1"),
        (lambda i: setattr(i.digests[0].preamble, "name", "other"), "has a digest other"),
        (lambda i: i.type_info.structs["learned_t"].members.pop(), "digest learned_t has"),
    ],
)
def test_what_does_not_fit_of_services_is_named(change: Callable[[p4i.P4Info], object], said: str) -> None:
    program = compile_program((FEATURES / "entities.json").read_bytes(), cpus=1).program
    changed = text_format.Parse((FEATURES / "entities.p4info.txtpb").read_text(), p4i.P4Info())
    fit.check(changed, program)
    change(changed)
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        fit.check(changed, program)


def unmetered(message: p4i.P4Info) -> int:
    """Return the id of a table without a direct meter."""
    return next(t.preamble.id for t in message.tables if not t.direct_resource_ids and t.match_fields)


def test_tables_and_actions_that_were_optimized_out_are_taken() -> None:
    changed = info()
    action = changed.actions.add()
    action.preamble.id, action.preamble.name = 77, "Ingress.gone"
    action.params.add(id=1, name="x", bitwidth=5)
    table = changed.tables.add(size=4)
    table.preamble.id, table.preamble.name = 78, "Ingress.never"
    table.match_fields.add(id=1, name="k", bitwidth=8, match_type=p4i.MatchField.EXACT)
    table.action_refs.add(id=77)
    assert fit.check(changed, PROGRAM).parameters["Ingress.gone"] == [5]


def test_a_translated_field_has_the_data_planes_width() -> None:
    changed = info()
    port = named(changed, "forward").params[0]
    port.bitwidth, port.type_name.name = 32, "port_id_t"
    assert fit.check(changed, PROGRAM).parameters["IngressImpl.forward"] == [9, 48]


def test_an_action_that_is_also_called_directly_is_taken() -> None:
    """p4c then has two actions of its name in the JSON, one of them without parameters."""
    number = next(n for n, a in PROGRAM.actions.items() if a.name == "IngressImpl.forward")
    direct = dataclasses.replace(PROGRAM.actions[number], id=999, parameters=(), primitives=())
    program = dataclasses.replace(PROGRAM, actions={**PROGRAM.actions, 999: direct})
    assert fit.check(info(), program).parameters["IngressImpl.forward"] == [9, 48]


NUMBERS = st.integers(0, 40) | st.sampled_from([1 << 20, (1 << 31) - 1])


def changed_at_random(data: st.DataObject, message: Message) -> None:
    """Change one thing in a message, or in one that it contains."""
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = data.draw(st.sampled_from(fields), label=type(message).__name__)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key = data.draw(st.sampled_from(sorted(value)), label=field.name)
        if data.draw(st.booleans()):
            del value[key]
        else:
            changed_at_random(data, value[key])
        return
    if not isinstance(value, Message | bool | int | float | str | bytes):
        index = data.draw(st.integers(0, len(value) - 1), label=field.name)
        what = data.draw(st.sampled_from(["change", "remove", "repeat"]))
        if what == "remove":
            del value[index]
        elif what == "repeat":
            value.append(value[index])
        elif field.message_type is not None:
            changed_at_random(data, value[index])
        return
    if field.message_type is not None:
        changed_at_random(data, value)
    elif isinstance(value, bool):
        setattr(message, field.name, not value)
    elif isinstance(value, str):
        setattr(message, field.name, data.draw(st.sampled_from(["", "other", f"{value}x"])))
    elif isinstance(value, int) and field.enum_type is None:
        setattr(message, field.name, data.draw(NUMBERS, label=field.name))
    elif field.enum_type is not None:
        numbers = [item.number for item in field.enum_type.values]
        setattr(message, field.name, data.draw(st.sampled_from(numbers), label=field.name))


@pytest.mark.parametrize("name", ["features", "entities"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_p4info_that_disagrees_is_refused_or_does_no_harm(name: str, data: st.DataObject) -> None:
    """Whatever differs is refused as the client's fault, or all that clients may ask for is answered."""
    config = (FEATURES / f"{name}.json").read_bytes()
    message = text_format.Parse((FEATURES / f"{name}.p4info.txtpb").read_text(), p4i.P4Info())
    for _ in range(data.draw(st.integers(1, 3))):
        changed_at_random(data, message)
    device = MemoryDevice()
    try:
        pushed = p4r.ForwardingPipelineConfig(p4info=message, p4_device_config=config)
        try:
            staged = asyncio.run(stage(device, pushed, device.ports))
        except P4RuntimeError as error:
            assert error.grpc_code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED), error
            assert "Error:" not in error.message, error
            return
        for query in (*EVERYTHING, *defaults(staged.forwarding.tables)):
            list(staged.forwarding.read(query))
    finally:
        device.close()
