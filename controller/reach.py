"""Whether a device can be reached: what monitoring finds out, and the updater acts upon."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from duet_p4.model import Model


class Reach(StrEnum):
    """Whether an agent answers.

    One that is `unwell` answers that something of it does not work. A switch is `lost` once there is
    positive evidence that it carries nothing: a neighbour that answers, and none that has a BGP session with
    it.
    """

    UNKNOWN = "unknown"
    READY = "ready"
    UNWELL = "unwell"
    UNREACHABLE = "unreachable"
    LOST = "lost"

    @property
    def answers(self) -> bool:
        """Whether it is worth sending requests; of one that nobody has asked yet it is assumed."""
        return self in (Reach.UNKNOWN, Reach.READY, Reach.UNWELL)


class ReachMap(Model):
    """What monitoring knows of every device, each time anew: a report that gets lost does no harm.

    `cut_off` are servers that nothing can be sent to, as the switches before them say: whose port or
    adjacency is down, or whose switch carries nothing; of those that are `unheard` of, nothing was told yet.
    `dead` are switches and SMuxes to which no switch has carrier, `links_down` links without carrier, or that
    lost their BGP session. `pins` is how many pinned flows switches hold at most, as they say. `restarted`
    has, by node and process, when (Unix time) one that had ended was last seen to be there again, `troubles`
    what devices say is wrong with them. `suspect` says in words why monitoring suspects itself, not the
    devices; empty where it does not.
    """

    devices: dict[str, Reach]
    cut_off: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    links_down: tuple[tuple[str, str], ...] = ()
    pins: dict[str, int] = Field(default_factory=dict)
    restarted: dict[str, dict[str, float]] = Field(default_factory=dict)
    troubles: dict[str, str] = Field(default_factory=dict)
    suspect: str = ""
