"""How a member of the etcd of a cluster of controllers is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TRANSACTION = 10_000
"""How many operations such a member takes in a transaction: a whole batch of an assignment fits."""

_REQUEST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class EtcdFiles:
    """A member's certificate and key, and the authority that others' must be signed by."""

    ca: Path
    certificate: Path
    key: Path


def etcd_command(
    name: str, folder: Path, client: str, peers: Mapping[str, str], files: EtcdFiles | None = None
) -> list[str]:
    """Return the command line of the member `name` of `peers` (URLs of all members, for each other).

    It keeps its data in `folder`, and answers controllers at the URL `client`.
    """
    command = [
        "etcd",
        *("--name", name),
        *("--data-dir", str(folder)),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
        *("--initial-cluster", ",".join(f"{peer}={url}" for peer, url in peers.items())),
        *("--initial-cluster-token", "duet"),
        *("--max-txn-ops", str(TRANSACTION), "--max-request-bytes", str(_REQUEST_BYTES)),
        *("--logger", "zap", "--log-level", "warn"),
    ]
    if files is not None:
        for side in ("", "peer-"):
            command += [f"--{side}cert-file", str(files.certificate), f"--{side}key-file", str(files.key)]
            command += [f"--{side}trusted-ca-file", str(files.ca), f"--{side}client-cert-auth"]
    return command
