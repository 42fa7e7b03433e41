"""A batch with ROLLBACK_ON_ERROR or DATAPLANE_ATOMIC is carried out whole or not at all."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import p4r, rpc_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.p4runtime.client import (
    DELETE,
    INSERT,
    MODIFY,
    Client,
    canonical,
    codes,
    direct,
    errors,
    exact,
)
from tests.unit.p4runtime.test_entities import (
    NAMES,
    RATES,
    config,
    digest,
    entities,
    group,
    meter,
    port,
    replica,
    session,
    value_set,
)

__all__ = ["entities"]

ROLLBACK = p4r.WriteRequest.ROLLBACK_ON_ERROR
AT_ONCE = p4r.WriteRequest.DATAPLANE_ATOMIC
REFUSED = (DELETE, session(99))
KINDS = (INSERT, MODIFY, DELETE)


def register(value: int) -> p4r.RegisterEntry:
    entry = p4r.RegisterEntry(register_id=NAMES["levels"], index=p4r.Index(index=value % 4))
    entry.data.bitstring = canonical(value)
    return entry


def direct_count(number: int, packets: int) -> p4r.DirectCounterEntry:
    key = port(number)
    key.ClearField("action")
    return p4r.DirectCounterEntry(table_entry=key, data=p4r.CounterData(packet_count=packets))


def default(action: str | None) -> p4r.TableEntry:
    entry = NAMES.entry("copies", is_default_action=True)
    if action is not None:
        entry.action.CopyFrom(direct(NAMES.action(action, *([5] if action == "flood" else []))))
    return entry


NUMBER = st.integers(1, 3)
OUT = st.sampled_from([b"1", b"Ethernet2"])
MESSAGES = st.one_of(
    st.builds(port, NUMBER, out=OUT),
    st.builds(lambda n: port(n, meter_config=RATES, counter_data=p4r.CounterData(byte_count=n)), NUMBER),
    st.builds(lambda n, out: group(n, replica(out, n)), NUMBER, OUT),
    st.builds(lambda n, size: session(n, replica(b"2"), packet_length_bytes=size), NUMBER, NUMBER),
    st.builds(lambda n: digest(max_list_size=n), NUMBER),
    st.builds(lambda n: meter(n, config(n, n, n, n)), NUMBER),
    st.just(meter(None, RATES)),
    st.builds(lambda members: value_set(*members), st.lists(st.integers(1, 3), unique=True)),
    st.builds(register, st.integers(0, 50)),
    st.builds(direct_count, NUMBER, NUMBER),
    st.builds(default, st.sampled_from(["flood", "NoAction", None])),
    st.builds(
        lambda n: NAMES.entry("started", exact(1, n), action=direct(NAMES.action("drop"))),
        st.sampled_from([0x0806, 0x88CC, 1]),
    ),
)
UPDATES = st.lists(st.tuples(st.sampled_from(KINDS), MESSAGES), max_size=8)


def attempt(client: Client, updates, **fields) -> list[int]:
    """Write a batch and return the code of each update."""
    try:
        client.write(*updates, **fields)
    except grpc.RpcError as error:
        return codes(error)
    return [rpc_code.OK] * len(updates)


@pytest.mark.parametrize("mode", [ROLLBACK, AT_ONCE], ids=["rollback", "at once"])
def test_a_batch_is_taken_back_whole_or_carried_out_whole(entities: Client, mode: int) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(before=UPDATES, batch=UPDATES)
    def check(before, batch) -> None:
        entities.push()
        attempt(entities, before)
        held = entities.everything()
        results = attempt(entities, batch, atomicity=mode)
        if any(results):
            assert entities.everything() == held
            refused = [code for code in results if code not in (rpc_code.OK, rpc_code.ABORTED)]
            assert len(refused) == 1, "one was refused, the others were taken back or not tried"
            assert rpc_code.OK not in results
        else:
            found = sorted(entities.everything())
            entities.push()
            attempt(entities, before)
            attempt(entities, batch)
            assert sorted(entities.everything()) == found, "as one by one"
        assert attempt(entities, [*batch, REFUSED], atomicity=mode)[-1] != rpc_code.OK

    check()


def test_what_was_refused_is_named(entities: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        entities.write((INSERT, port(1)), REFUSED, (INSERT, port(2)), atomicity=ROLLBACK)
    assert codes(caught.value) == [rpc_code.ABORTED, rpc_code.NOT_FOUND, rpc_code.ABORTED]
    assert entities.read(NAMES.entry("switch_ports")) == []
    assert "99" in caught.value.details(), "the message is of another update"


def test_what_was_refused_last_of_many_is_told(entities: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        entities.write(*((INSERT, port(n)) for n in range(1, 31)), (INSERT, port(7)), atomicity=ROLLBACK)
    assert codes(caught.value) == [rpc_code.ABORTED] * 30 + [rpc_code.ALREADY_EXISTS]
    assert "holds this entry already" in errors(caught.value)[-1].message
    assert entities.read(NAMES.entry("switch_ports")) == []


def test_a_good_batch_is_carried_out(entities: Client) -> None:
    entities.write((INSERT, port(1)), (INSERT, port(2)), (DELETE, port(1)), atomicity=ROLLBACK)
    assert entities.read(NAMES.entry("switch_ports")) == [port(2)]
