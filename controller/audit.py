"""Who stated what: an event for every change of a VIP that somebody asked for."""

from __future__ import annotations

from typing import Any

from controller.events import EventLog
from controller.records import VipRecord
from duet_p4.rest.access import ACTOR

KIND = "stated"
"""The kind of these events; `duet events --audit` shows no others."""


class Audit:
    """Writes events of what is stated, by whom, and what was so before."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def __call__(self, old: VipRecord | None, new: VipRecord | None) -> None:
        """Note that a VIP was stated: added without an old record, removed without a new one."""
        record = new or old
        assert record is not None
        before, after = _stated(old), _stated(new)
        actor = ACTOR.get()
        self._events.add(
            KIND,
            str(record.address),
            actor=str(actor) if actor else "anybody",
            revision=record.revision,
            before={key: value for key, value in before.items() if value != after.get(key)},
            after={key: value for key, value in after.items() if value != before.get(key)},
        )


def _stated(record: VipRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    spec = record.spec.model_dump(mode="json", exclude={"address"}, exclude_defaults=True)
    return {**spec, **({"held": True, "switch": record.switch} if record.held else {})}
