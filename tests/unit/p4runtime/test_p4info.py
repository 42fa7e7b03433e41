"""P4Info compiled: keys and values in and out, and what is refused."""

from __future__ import annotations

import pytest
from finsy.proto import p4i, p4r, rpc_code
from hypothesis import given
from hypothesis import strategies as st

from duet_p4.xdp_switch.dataplane import FieldValue
from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.p4info import MatchKind, Schema, Table
from tests.unit.p4runtime.conftest import INFO


def changed(change) -> p4i.P4Info:
    info = p4i.P4Info()
    info.CopyFrom(INFO)
    change(info)
    return info


def table_of(kind: int, width: int = 16) -> Table:
    """Return a table with one field of this kind."""
    info = p4i.P4Info()
    info.actions.add().preamble.id = 1
    table = info.tables.add(size=8)
    table.preamble.id, table.preamble.name = 2, "t"
    table.match_fields.add(id=1, name="f", bitwidth=width, match_type=kind)
    table.action_refs.add(id=1)
    return Schema.of(info).tables[2]


@st.composite
def keys(draw: st.DrawFn) -> tuple[Table, FieldValue]:
    width = draw(st.sampled_from([1, 9, 16, 32, 128]))
    kind = draw(st.sampled_from(list(MatchKind)))
    full = (1 << width) - 1
    value = draw(st.integers(0, full))
    field: FieldValue = value
    if kind is MatchKind.LPM:
        length = draw(st.integers(0, width))
        field = (value >> (width - length) << (width - length), length)
    elif kind is MatchKind.TERNARY:
        mask = draw(st.integers(0, full))
        field = (value & mask, mask)
    elif kind is MatchKind.RANGE:
        field = (value, draw(st.integers(value, full)))
    elif kind is MatchKind.OPTIONAL:
        field = draw(st.none() | st.just(value))
    return table_of(kind, width), field


@given(keys())
def test_a_key_decodes_to_what_was_encoded(case: tuple[Table, FieldValue]) -> None:
    table, value = case
    entry = p4r.TableEntry()
    priority = 1 if table.needs_priority else 0
    table.encode_key((value,), priority, entry)
    assert table.decode_key(entry) == ((value,), priority)
    assert len(entry.match) == (value != table.fields[0].wildcard or table.fields[0].kind is MatchKind.EXACT)


@given(value=st.integers(0, 2**64), padding=st.integers(0, 9))
def test_a_value_is_canonical_on_the_way_out_and_may_be_padded_on_the_way_in(
    value: int, padding: int
) -> None:
    data = values.encode(value)
    assert len(data) == max(1, (value.bit_length() + 7) // 8)
    assert values.decode(bytes(padding) + data, 65, "x") == value


@given(value=st.integers(1, 2**64))
def test_a_value_wider_than_its_field_is_out_of_range(value: int) -> None:
    with pytest.raises(P4RuntimeError) as caught:
        values.decode(values.encode(value), value.bit_length() - 1, "x")
    assert caught.value.code == rpc_code.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (b"\2", b"\1", rpc_code.INVALID_ARGUMENT),
        (b"\0", b"\xff\xff", rpc_code.INVALID_ARGUMENT),
        (b"\0", b"\1\0\0", rpc_code.OUT_OF_RANGE),
    ],
)
def test_a_malformed_range_is_refused(low: bytes, high: bytes, code: int) -> None:
    entry = p4r.TableEntry(priority=1)
    entry.match.add(field_id=1).range.MergeFrom(p4r.FieldMatch.Range(low=low, high=high))
    with pytest.raises(P4RuntimeError) as caught:
        table_of(MatchKind.RANGE).decode_key(entry)
    assert caught.value.code == code


def test_parameters_may_come_in_any_order() -> None:
    action = next(a for a in Schema.of(INFO).actions.values() if a.name.endswith("forward"))
    message = p4r.Action(action_id=action.id)
    message.params.add(param_id=2, value=b"\7")
    message.params.add(param_id=1, value=b"\3")
    assert action.decode(message) == (3, 7)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            lambda i: setattr(i.digests.add().type_spec.header, "name", "h"),
            rpc_code.UNIMPLEMENTED,
            "holds a header",
        ),
        (
            lambda i: setattr(i.value_sets.add().match.add(), "match_type", p4i.MatchField.TERNARY),
            rpc_code.UNIMPLEMENTED,
            "not matched exactly",
        ),
        (lambda i: i.externs.add(extern_type_name="X"), rpc_code.UNIMPLEMENTED, "extern X"),
        (
            lambda i: setattr(i.tables[0].match_fields[0], "other_match_type", "fuzzy"),
            rpc_code.UNIMPLEMENTED,
            "fuzzy",
        ),
        (lambda i: i.tables[0].action_refs.add(id=9), rpc_code.INVALID_ARGUMENT, "action 9"),
        (lambda i: i.action_profiles[0].table_ids.append(9), rpc_code.INVALID_ARGUMENT, "table 9"),
        (lambda i: i.tables.append(i.tables[0]), rpc_code.INVALID_ARGUMENT, "twice"),
    ],
)
def test_a_p4info_that_cannot_be_served_is_refused(change, code: int, said: str) -> None:
    with pytest.raises(P4RuntimeError) as caught:
        Schema.of(changed(change))
    assert caught.value.code == code
    assert said in caught.value.message
