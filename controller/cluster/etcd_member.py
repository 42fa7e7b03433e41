"""How a member of the etcd of a cluster of controllers is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from duet_p4.identity.authority import IDENTITY, TRUST

TRANSACTION = 10_000
"""How many operations such a member takes in a transaction: a whole batch of an assignment fits."""

_REQUEST_BYTES = 16 * 1024 * 1024

_HEARTBEAT_MS, _ELECTION_MS = 50, 500
"""Members are milliseconds apart: an election ends before a leader's lease, as a rule."""


def etcd_command(
    name: str, folder: Path, client: str, peers: Mapping[str, str], credentials: Path | None = None
) -> list[str]:
    """Return the command line of the member `name` of `peers` (URLs of all members, for each other).

    It keeps its data in `folder`, and answers controllers at the URL `client`: over TLS with `credentials`,
    the folder of a controller's, to whoever has a certificate of an authority that these believe.
    """
    command = [
        "etcd",
        *("--name", name),
        *("--data-dir", str(folder)),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
        *("--initial-cluster", ",".join(f"{peer}={url}" for peer, url in peers.items())),
        *("--initial-cluster-token", "duet"),
        *("--heartbeat-interval", str(_HEARTBEAT_MS), "--election-timeout", str(_ELECTION_MS)),
        *("--max-txn-ops", str(TRANSACTION), "--max-request-bytes", str(_REQUEST_BYTES)),
        *("--logger", "zap", "--log-level", "warn"),
    ]
    if credentials is not None:
        for side in ("", "peer-"):
            command += [f"--{side}cert-file", str(credentials / IDENTITY)]
            command += [f"--{side}key-file", str(credentials / IDENTITY)]
            command += [f"--{side}trusted-ca-file", str(credentials / TRUST), f"--{side}client-cert-auth"]
    return command
