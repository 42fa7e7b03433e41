"""What the agent knows of its switch, as a state machine: five states, and one table of transitions.

- `STARTING`: no session yet.
- `ADOPTING`: a session; the tables are being read and brought in line. Nothing is taken down.
- `READY`: the switch holds what it should.
- `DOUBT`: a write may or may not have been taken. The tables are read again under the live session, and
  nothing else is touched: the switch forwards, BGP goes on.
- `LOST`: no session, but nothing says that the switch is dead. It forwards on; BGP goes on for a grace time,
  in which a new session is tried for.
- `DEAD`: the switch is gone, or was lost for longer than that. Its links go down, its VIPs are withdrawn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum

logger = logging.getLogger(__name__)


class Phase(Enum):
    """What is known of the switch."""

    STARTING = "starting"
    ADOPTING = "adopting"
    READY = "ready"
    DOUBT = "doubt"
    LOST = "lost"
    DEAD = "dead"

    @property
    def forwards(self) -> bool:
        """Whether the switch is taken to forward packets, so that ports and BGP are its to use."""
        return self in (Phase.ADOPTING, Phase.READY, Phase.DOUBT, Phase.LOST)

    @property
    def in_session(self) -> bool:
        """Whether there is a session with the switch."""
        return self in (Phase.ADOPTING, Phase.READY, Phase.DOUBT)


class Event(Enum):
    """What happens to a switch or to the session with it."""

    CONNECTED = "a session was opened"
    ADOPTED = "the tables are as they should be"
    SUSPECTED = "a write is in doubt"
    SESSION_ENDED = "the session ended"
    GRACE_ENDED = "it was away for too long"
    DIED = "nothing listens any more"


_TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.STARTING, Event.CONNECTED): Phase.ADOPTING,
    (Phase.LOST, Event.CONNECTED): Phase.ADOPTING,
    (Phase.DEAD, Event.CONNECTED): Phase.ADOPTING,
    (Phase.ADOPTING, Event.ADOPTED): Phase.READY,
    (Phase.DOUBT, Event.ADOPTED): Phase.READY,
    (Phase.READY, Event.SUSPECTED): Phase.DOUBT,
    (Phase.ADOPTING, Event.SUSPECTED): Phase.DOUBT,
    (Phase.ADOPTING, Event.SESSION_ENDED): Phase.LOST,
    (Phase.READY, Event.SESSION_ENDED): Phase.LOST,
    (Phase.DOUBT, Event.SESSION_ENDED): Phase.LOST,
    (Phase.LOST, Event.GRACE_ENDED): Phase.DEAD,
    (Phase.LOST, Event.DIED): Phase.DEAD,
}
"""Every other event leaves a state as it is."""

_SAID = {
    Phase.STARTING: "waiting for the P4 switch",
    Phase.ADOPTING: "bringing the P4 switch's tables in line",
    Phase.READY: "",
    Phase.DOUBT: "reading the P4 switch's tables back: a write is in doubt",
    Phase.LOST: "no session with the P4 switch, which may forward on",
    Phase.DEAD: "the P4 switch is dead",
}


class Control:
    """The state of one switch. `entered` is called with each new state and the one before."""

    def __init__(self, entered: Callable[[Phase, Phase], None]) -> None:
        self._entered = entered
        self._why = ""
        self.phase = Phase.STARTING
        self.since = time.monotonic()

    def note(self, event: Event, why: str = "") -> Phase:
        """Have something happened; return the state that follows."""
        before = self.phase
        after = _TRANSITIONS.get((before, event), before)
        if why:
            self._why = why
        if after is not before:
            self.phase, self.since = after, time.monotonic()
            quiet = after in (Phase.ADOPTING, Phase.READY)
            logger.log(
                logging.INFO if quiet else logging.WARNING,
                "the switch was %s and is %s: %s%s",
                *(before.value, after.value, event.value, f" ({why})" if why else ""),
            )
            if after is Phase.READY:
                self._why = ""
            self._entered(after, before)
        return after

    def trouble(self) -> str:
        """Return what is wrong, or nothing."""
        said = _SAID[self.phase]
        return f"{said}: {self._why}" if said and self._why else said
