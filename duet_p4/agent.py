"""What the agents of switches, SMuxes and servers share: how each is configured, started and ended."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from pydantic import model_validator

from duet_p4 import collector, log
from duet_p4.bird.daemon import BirdError
from duet_p4.bpf.errors import BpfError
from duet_p4.identity import Credentials, CredentialsError, Identity, Role
from duet_p4.identity.credentials import require_one
from duet_p4.journal import JournalError
from duet_p4.model import Model, Port
from duet_p4.rest.access import AGENT, Access
from duet_p4.telemetry import TelemetryConfig

logger = logging.getLogger(__name__)


class AgentConfig(Model):
    """What every agent is told; its own configuration adds to it.

    It answers at `listen` over mutual TLS, with the `credentials` (a folder, `duet_p4.identity`) of the node
    `name`. Without it does not start, unless it is told to let everybody in over plain HTTP: `insecure`.
    """

    role: ClassVar[Role]

    name: str
    state_dir: Path
    listen: IPv4Address
    port: Port = 8443
    credentials: Path | None = None
    insecure: bool = False
    pins: Path | None = None
    telemetry: TelemetryConfig = TelemetryConfig()
    log_level: str = "INFO"

    def pin_folder(self) -> Path:
        """Where the data path is pinned: in a BPF file system, which is mounted there if need be."""
        return self.pins or self.state_dir / "pins"

    @model_validator(mode="after")
    def _closed(self) -> Self:
        require_one(self.credentials, insecure=self.insecure)
        return self

    def identify(self) -> Credentials | None:
        """Read the credentials; None where everybody is let in. Raises CredentialsError."""
        if self.credentials is None:
            return None
        found = Credentials(self.credentials)
        wanted = Identity(self.role, self.name)
        if found.identity != wanted:
            raise CredentialsError(f"{self.credentials} is of {found.identity}, not of {wanted}")
        return found

    def access(self) -> Access | None:
        """Return who may do what; None for everybody everything."""
        return None if self.insecure else AGENT


Config = TypeVar("Config", bound=AgentConfig)


def main(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    kind: type[Config],
    run: Callable[[Config], None],
    detach: Callable[[Config], None] | None = None,
) -> int:
    """Read the configuration that `--config` names and `run` the agent; returns the exit status.

    With `--detach`, where an agent has a data path that outlives it, `detach` that instead.

    Options that `parser` has already stand in place of the configuration's fields of the same name.
    """
    parser.add_argument("--config", type=Path, required=True, help="its JSON configuration")
    if detach:
        parser.add_argument(
            "--detach", action="store_true", default=None, help="remove its data path, then end"
        )
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    work = detach if detach and given.pop("detach", False) else run
    try:
        config = kind.from_file(given.pop("config")).model_copy(update=given)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    log.setup(config.name, config.log_level)
    collector.relax()
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        work(config)
    except (OSError, ValueError, BirdError, BpfError, JournalError) as error:
        logger.error("%s", error)
        return 1
    return 0
