"""How a service says whether it does its work."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel


class State(StrEnum):
    """Whether a service does its work."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"


class Health(BaseModel):
    """What `/healthz` answers; `detail` says what is missing where the state is not `ready`."""

    state: State
    detail: str = ""
