"""What the agents of switches, SMuxes and servers share: how each is configured, started and ended."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from duet_p4 import log
from duet_p4.bird.daemon import BirdError
from duet_p4.bpf.errors import BpfError
from duet_p4.journal import JournalError
from duet_p4.model import Model, Port
from duet_p4.rest.credentials import read_token
from duet_p4.rest.server import Tls

logger = logging.getLogger(__name__)


class AgentConfig(Model):
    """What every agent is told; its own configuration adds to it.

    It answers at `listen`: over TLS where it has a certificate and its key. Writes need the token in
    `token_file` where there is one.
    """

    name: str
    state_dir: Path
    listen: IPv4Address
    port: Port = 8443
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    pins: Path | None = None
    log_level: str = "INFO"

    def pin_folder(self) -> Path:
        """Where the data path is pinned: in a BPF file system, which is mounted there if need be."""
        return self.pins or self.state_dir / "pins"

    def token(self) -> str | None:
        """Read the token. Raises OSError, or ValueError where the file holds none."""
        return read_token(self.token_file) if self.token_file else None

    def tls(self) -> Tls | None:
        """Return the certificate and its key."""
        return Tls(self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None


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
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        work(config)
    except (OSError, ValueError, BirdError, BpfError, JournalError) as error:
        logger.error("%s", error)
        return 1
    return 0
