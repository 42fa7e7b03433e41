"""Write random updates to a switch's forwarding state, and compare answers and entities with the model's."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy.proto import p4i, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from ptf_tests.fuzzer.generate import Attempt, Generator
from ptf_tests.fuzzer.model import Model, key_of

LOOK = 500
"""Updates between two comparisons of everything that is held."""

_QUERIES = (
    p4r.Entity(table_entry=p4r.TableEntry()),
    p4r.Entity(action_profile_member=p4r.ActionProfileMember()),
    p4r.Entity(action_profile_group=p4r.ActionProfileGroup()),
    p4r.Entity(counter_entry=p4r.CounterEntry()),
    p4r.Entity(register_entry=p4r.RegisterEntry()),
    p4r.Entity(meter_entry=p4r.MeterEntry()),
    p4r.Entity(value_set_entry=p4r.ValueSetEntry()),
    p4r.Entity(digest_entry=p4r.DigestEntry()),
    p4r.Entity(
        packet_replication_engine_entry=p4r.PacketReplicationEngineEntry(
            multicast_group_entry=p4r.MulticastGroupEntry()
        )
    ),
    p4r.Entity(
        packet_replication_engine_entry=p4r.PacketReplicationEngineEntry(
            clone_session_entry=p4r.CloneSessionEntry()
        )
    ),
)


def fuzz(info: p4i.P4Info, state: ForwardingState, seed: int, updates: int) -> Iterator[str]:
    """Yield a sentence for every answer or entity that is not as the model says."""
    generator = Generator(info, random.Random(seed))
    model = Model(info, held(info, state))
    for number in range(updates):
        attempt = generator.attempt()
        yield from _compare(model, state, attempt, number)
        if number % LOOK == LOOK - 1 or number == updates - 1:
            yield from _differences(info, model, state, number)


def held(info: p4i.P4Info, state: ForwardingState) -> Iterator[p4r.Entity]:
    """Yield everything that a switch holds, default entries included."""
    for query in _QUERIES:
        yield from state.read(query)
    for table in info.tables:
        query = p4r.TableEntry(table_id=table.preamble.id, is_default_action=True)
        yield from state.read(p4r.Entity(table_entry=query))


def _compare(model: Model, state: ForwardingState, attempt: Attempt, number: int) -> Iterator[str]:
    facts = model.facts(attempt)
    allowed = {code for fact in facts for code in fact.codes}
    if not any(fact.certain for fact in facts):
        allowed.add(rpc_code.OK)
    code, said = rpc_code.OK, ""
    try:
        state.write(attempt.update)
    except P4RuntimeError as error:
        code, said = error.code, error.message
    if code not in allowed:
        named = ", ".join(fact.name for fact in facts) or "nothing is wrong with it"
        yield (
            f"update {number}: code {code} ({said}), not one of {sorted(allowed)} ({named}): {attempt.update}"
        )
    if code == rpc_code.OK:
        model.apply(attempt.update)


def _differences(info: p4i.P4Info, model: Model, state: ForwardingState, number: int) -> Iterator[str]:
    found = {key_of(entity): entity for entity in held(info, state)}
    for key in found.keys() ^ model.held.keys():
        where = "switch" if key in found else "model"
        yield f"after update {number}: only the {where} holds {found.get(key) or model.held.get(key)}"
    for key in found.keys() & model.held.keys():
        if _plain(found[key]) != _plain(model.held[key]):
            yield f"after update {number}: the switch holds {found[key]}, not {model.held[key]}"


def _plain(entity: p4r.Entity) -> p4r.Entity:
    """Return an entity without what does not matter: the order of match fields, and who is const."""
    plain = p4r.Entity()
    plain.CopyFrom(entity)
    if plain.HasField("table_entry"):
        match = sorted(plain.table_entry.match, key=lambda item: item.field_id)
        plain.table_entry.ClearField("match")
        plain.table_entry.match.extend(match)
        plain.table_entry.is_const = False
    return plain
