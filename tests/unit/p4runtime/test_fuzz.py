"""Requests of random bytes, wrong ids and values out of range get an error, and change nothing."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import p4r
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.p4runtime.client import DELETE, INSERT, MODIFY, Client, direct, exact, lpm, optional, ternary

pytestmark = pytest.mark.usefixtures("client")

OFTEN = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EXPECTED = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def populate(client: Client) -> None:
    """Put one entity of each kind there, so that a stray update has something to hit."""
    names = client.names
    member = p4r.ActionProfileMember(
        action_profile_id=names["next_hops"], member_id=1, action=names.action("forward", 1, 1)
    )
    group = p4r.ActionProfileGroup(action_profile_id=names["next_hops"], group_id=1)
    group.members.add(member_id=1, weight=1)
    client.write((INSERT, member))
    client.write((INSERT, group))
    client.write(*((INSERT, message) for message in valid_entries(client)))
    counter = p4r.CounterEntry(counter_id=names["drops"], index=p4r.Index(index=1))
    counter.data.packet_count = 1
    client.write((MODIFY, counter))


def valid_entries(client: Client) -> list[p4r.TableEntry]:
    names = client.names
    forward = direct(names.action("forward", 1, 2))
    return [
        names.entry("host", exact(1, 1), action=forward),
        names.entry("route", lpm(1, 0x0A000000, 8), action=forward),
        names.entry("acl", ternary(1, 1, 1), optional(2, 6), exact(3, 1), priority=1, action=forward),
        names.entry("wcmp", exact(1, 1), action=p4r.TableAction(action_profile_group_id=1)),
    ]


def raw_call(client: Client, method: str, data: bytes) -> grpc.StatusCode:
    """Send bytes as they are and return the status."""
    path = f"/p4.v1.P4Runtime/{method}"
    try:
        if method == "Read":
            list(client.channel.unary_stream(path)(data, timeout=20))
        else:
            client.channel.unary_unary(path)(data, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def unharmed(client: Client, before: list[bytes]) -> None:
    after = client.everything()
    assert after == before, f"changed: {set(after) ^ set(before)}"


@pytest.mark.parametrize("method", ["Write", "Read", "SetForwardingPipelineConfig"])
def test_random_bytes_get_an_error_and_change_nothing(client: Client, method: str) -> None:
    populate(client)
    before = client.everything()

    @OFTEN
    @given(data=st.binary(min_size=1, max_size=200))
    def check(data: bytes) -> None:
        code = raw_call(client, method, data)
        # Bytes that happen to say "no updates" or "no requests" are a valid message that does nothing.
        assert code in EXPECTED or (code is grpc.StatusCode.OK and method != "SetForwardingPipelineConfig")
        unharmed(client, before)

    check()


TOO_WIDE = st.binary(min_size=7, max_size=40).map(lambda data: b"\xff" + data)
BAD_BYTES = st.one_of(st.just(b""), TOO_WIDE)
UNKNOWN_ID = st.integers(100, 2**31 - 1)


def spoil_key(data: st.DataObject, entry: p4r.TableEntry) -> None:
    """Change one thing about a key such that no table of features.p4 can take it."""
    match = data.draw(st.sampled_from(list(entry.match)))
    kind = match.WhichOneof("field_match_type")
    choice = data.draw(st.sampled_from(["table", "field", "value", "priority", "kind", "twice", "length"]))
    if choice == "table":
        entry.table_id = data.draw(UNKNOWN_ID)
    elif choice == "field":
        match.field_id = data.draw(UNKNOWN_ID)
    elif choice == "value":
        getattr(match, kind).value = data.draw(BAD_BYTES)
    elif choice == "priority":
        entry.priority = data.draw(st.integers(-(2**31), 0)) if entry.priority else data.draw(UNKNOWN_ID)
    elif choice == "kind":
        match.range.low, match.range.high = b"\0", b"\1"
    elif choice == "twice":
        entry.match.append(match)
    elif kind == "lpm":
        match.lpm.prefix_len = data.draw(st.integers(33, 2**31 - 1) | st.integers(-(2**31), 0))
    else:
        # Every table here but the LPM one has an exact field, which cannot be left out.
        entry.ClearField("match")


def spoil_action(data: st.DataObject, entry: p4r.TableEntry) -> None:
    """Change one thing about an action such that the table cannot take it."""
    if entry.action.WhichOneof("type") == "action_profile_group_id":
        entry.action.action_profile_group_id = data.draw(UNKNOWN_ID)
        return
    action = entry.action.action
    param = data.draw(st.sampled_from(list(action.params)))
    choice = data.draw(st.sampled_from(["id", "param", "value", "missing", "extra"]))
    if choice == "id":
        action.action_id = data.draw(UNKNOWN_ID)
    elif choice == "param":
        param.param_id = data.draw(UNKNOWN_ID)
    elif choice == "value":
        param.value = data.draw(BAD_BYTES)
    elif choice == "missing":
        action.params.remove(param)
    else:
        action.params.append(param)


@pytest.mark.parametrize("kind", [INSERT, MODIFY, DELETE])
def test_wrong_ids_and_values_out_of_range_get_an_error_and_change_nothing(client: Client, kind: int) -> None:
    populate(client)
    before = client.everything()

    @OFTEN
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(valid_entries(client)))
        spoil = spoil_key if kind == DELETE else data.draw(st.sampled_from([spoil_key, spoil_action]))
        spoil(data, entry)
        with pytest.raises(grpc.RpcError) as caught:
            client.write((kind, entry))
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        unharmed(client, before)

    check()


def test_an_update_with_flipped_bytes_either_succeeds_or_changes_nothing(client: Client) -> None:
    populate(client)
    requests = [
        p4r.WriteRequest(
            device_id=1, updates=[p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry))]
        ).SerializeToString()
        for entry in valid_entries(client)
        for kind in (INSERT, MODIFY)
    ]

    @OFTEN
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        before = client.everything()
        mutated = bytearray(data.draw(st.sampled_from(requests)))
        for position in data.draw(st.lists(st.integers(0, len(mutated) - 1), min_size=1, max_size=4)):
            mutated[position] = data.draw(st.integers(0, 255))
        code = raw_call(client, "Write", bytes(mutated))
        if code is grpc.StatusCode.OK:
            return
        assert code in EXPECTED
        # Flipped bytes may split one update in two, of which one may be good.
        if (
            code is not grpc.StatusCode.UNKNOWN
            or len(p4r.WriteRequest.FromString(bytes(mutated)).updates) == 1
        ):
            unharmed(client, before)

    check()
