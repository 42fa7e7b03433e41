"""The controller's configuration file."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from controller.engine import strategy_names
from duet_p4.identity.credentials import require_one
from duet_p4.model import FlowKey, Model
from duet_p4.telemetry import TelemetryConfig


class Module(StrEnum):
    """The controller's three parts."""

    MONITORING = "monitoring"
    ENGINE = "engine"
    UPDATER = "updater"


class Listen(Model):
    """Where the controller answers over mutual TLS."""

    host: IPv4Address = IPv4Address("127.0.0.1")
    port: int = Field(default=8080, ge=0, le=65535)


class Intervals(Model):
    """How often the controller does what it does by itself, in seconds."""

    health: float = Field(default=1.0, gt=0)
    traffic: float = Field(default=10.0, gt=0)
    repair: float = Field(default=0.5, gt=0, description="ask devices that are in doubt what they hold")
    settle: float = Field(default=2.0, gt=0, description="unpin flows that have ended")
    resync: float = Field(default=60.0, gt=0, description="ask every device whether it holds what it should")
    assignment: float | None = Field(default=600.0, gt=0, description="the paper: 10 minutes; null: never")


class ClusterConfig(Model):
    """One controller of several that keep their state in etcd: its name among them, and where etcd answers.

    `lease_s` after a leader was last heard of, another takes its place. Members of etcd with an https URL are
    reached with the controller's credentials.
    """

    name: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,63}$")
    etcd: tuple[str, ...] = Field(min_length=1)
    prefix: str = Field(default="/duet/", pattern=r"^/([!-.0-~]+/)+$", description="what its keys begin with")
    lease_s: float = Field(default=1.0, ge=0.5, le=60.0)
    transaction: int = Field(default=128, ge=16, description="etcd's --max-txn-ops")


class ControllerConfig(Model):
    """What `duet controller --config FILE` reads.

    Its state is in `database`, a file, or with a `cluster` in etcd. `elsewhere` gives the URL of modules that
    run in other processes.
    """

    database: Path | None = None
    cluster: ClusterConfig | None = None
    inventory: Path
    listen: Listen = Listen()
    socket: Path | None = Field(default=None, description="Unix socket for the operator on this machine")
    credentials: Path | None = Field(default=None, description="Folder with its key and certificate")
    insecure: bool = Field(default=False, description="Plain HTTP, and everybody may do everything")
    flow_key: FlowKey = 0
    power_of_two_slots: bool = Field(
        default=False, description="groups get a power of two of slots, which switches that are Tofinos need"
    )
    telemetry: TelemetryConfig = TelemetryConfig()
    modules: tuple[Module, ...] = tuple(Module)
    elsewhere: dict[Module, str] = Field(default_factory=dict)
    intervals: Intervals = Intervals()
    strategy: str = "sticky"
    misses: int = Field(default=3, ge=1, description="health questions an agent may miss before it is lost")
    switch_hold_s: float = Field(
        default=10.0,
        ge=0,
        description="how long a switch may be out of reach before its neighbours are asked about it",
    )
    suspicious_share: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="where more than this share of all devices cannot be reached at once, nothing is changed",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strategy not in strategy_names():
            raise ValueError(
                f"there is no strategy {self.strategy!r}; there are {', '.join(strategy_names())}"
            )
        require_one(self.credentials, insecure=self.insecure)
        if (self.database is None) == (self.cluster is None):
            raise ValueError("the state is in a `database`, or in the etcd of a `cluster`: state one of them")
        if self.cluster is not None and set(self.modules) != set(Module):
            raise ValueError("a controller of a cluster runs all three modules in one process")
        for module in Module:
            if module not in self.modules and module not in self.elsewhere:
                raise ValueError(f"{module} runs neither here nor, as `elsewhere` says, anywhere")
        return self
