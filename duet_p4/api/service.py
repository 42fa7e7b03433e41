"""How a service says whether it does its work."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field


class State(StrEnum):
    """Whether a service does its work."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"


class Health(BaseModel):
    """What `/healthz` answers; `detail` says what is missing where the state is not `ready`.

    `processes` has the ids of the service's process (`agent`) and of those that it runs (`bird`): one that is
    another than before has ended meanwhile, however soon it was there again.
    """

    state: State
    detail: str = ""
    processes: dict[str, int] = Field(default_factory=dict)


class Whoami(BaseModel):
    """Who a service is (`service`), and as whom it knows who asks (`peer`), as its certificates state it.

    `serial` and `expires` are those of its certificate, `trusted` the SHA-256 of each authority that it
    believes; `generation` counts how often its credentials have changed since it began. None and empty for
    a service that is `insecure`.
    """

    service: str | None
    peer: str | None
    serial: str | None
    expires: datetime | None
    trusted: tuple[str, ...]
    generation: int
