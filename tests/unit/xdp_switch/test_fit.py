"""A P4Info that is not the JSON's is refused, by what differs; what p4c itself lets differ is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4.xdp_switch import fit
from duet_p4.xdp_switch.compiler import compile_program

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
