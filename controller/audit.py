"""Who stated what: an event for every change that somebody asked for, of VIPs, places, and nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from controller.events import EventLog
from controller.records import VipRecord
from duet_p4.identity import Role
from duet_p4.model import Model
from duet_p4.rest.access import ACTOR

KIND = "stated"
"""The kind of these events; `duet events --audit` shows no others."""

_PLACES = 100
"""How many places an event of an assignment names; it counts all."""

Value = str | int | bool | None
Stated = Annotated[dict[str, Value], Field(max_length=32)]


class Noted(Model):
    """A change that was made elsewhere than here, such as a node made to fail, as who made it reports it."""

    subject: Annotated[str, Field(min_length=1, max_length=64)]
    before: Stated
    after: Stated


class Audit:
    """Writes events of what is stated, by whom, and what was so before."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def __call__(self, old: VipRecord | None, new: VipRecord | None) -> None:
        """Note that a VIP was stated: added without an old record, removed without a new one."""
        record = new or old
        assert record is not None
        before, after = _stated(old), _stated(new)
        self.note(
            str(record.address),
            record.revision,
            {key: value for key, value in before.items() if value != after.get(key)},
            {key: value for key, value in after.items() if value != before.get(key)},
        )

    def moved(self, changes: Iterable[tuple[VipRecord, VipRecord]], revision: int) -> None:
        """Note that an assignment moved VIPs or TIPs, from one switch (none: the SMuxes) to another."""
        moves = [
            (address, there, where)
            for old, new in changes
            for address, where in _places(new).items()
            if (there := _places(old).get(address)) != where
        ]
        if moves:
            told = moves[:_PLACES]
            before = {address: there for address, there, _ in told}
            after = {address: where for address, _, where in told}
            self.note("assignment", revision, before, after, moved=len(moves))

    def by_hand(
        self, subject: str, revision: int, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Note what changed, if an operator did what monitoring does else."""
        actor = ACTOR.get()
        changed = {key: value for key, value in after.items() if value != before.get(key)}
        if changed and (actor is None or actor.role is Role.OPERATOR):
            self.note(subject, revision, {key: before.get(key) for key in changed}, changed)

    def note(
        self, subject: str, revision: int, before: Mapping[str, Any], after: Mapping[str, Any], **more: Any
    ) -> None:
        """Note a change of whatever it was, made by who asks now."""
        actor = ACTOR.get()
        self._events.add(
            KIND,
            subject,
            actor=str(actor) if actor else "anybody",
            revision=revision,
            before=dict(before),
            after=dict(after),
            **more,
        )


def _places(record: VipRecord) -> dict[str, str | None]:
    return {str(address): carried.home for address, carried in record.carried().items()}


def _stated(record: VipRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    spec = record.spec.model_dump(mode="json", exclude={"address"}, exclude_defaults=True)
    return {**spec, **({"held": True, "switch": record.switch} if record.held else {})}
