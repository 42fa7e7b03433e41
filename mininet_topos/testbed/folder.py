"""The folder of a testbed: where each of its files is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/run/duet")
DEFAULT_NAME = "paper"
ROOT_NODE = "root"
"""What the testbed's own root namespace is called among the nodes."""

OPERATOR = "operator"
"""Who a testbed's launcher and commands are towards agents."""

CONTROLLER_USER = 64114
"""The user and group that controllers and their etcd run as: no account of the machine has these numbers."""

READER = "reader"
"""Who may look at everything, and change nothing."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class TestbedError(Exception):
    """Something the user can act upon; the text says what is wrong and what to do next."""

    __test__ = False


@dataclass(frozen=True)
class Folder:
    """`/run/duet/<name>`; all that a testbed has on the machine is below it."""

    name: str

    def __post_init__(self) -> None:
        """Refuse a name that is no plain file name."""
        if not _NAME.fullmatch(self.name):
            raise TestbedError(
                f"{self.name!r} is no name for a testbed: use up to 32 of a-z, 0-9 and -, "
                "and begin with a letter or digit"
            )

    @property
    def path(self) -> Path:
        """The folder itself."""
        return ROOT / self.name

    @property
    def plan(self) -> Path:
        """What was asked for: size, target, VIPs, who launched it."""
        return self.path / "plan.json"

    @property
    def namespaces(self) -> Path:
        """The namespaces, one file each."""
        return self.path / "netns"

    @property
    def root(self) -> Path:
        """The testbed's own root namespace: the launcher and the management bridge are in it."""
        return self.namespace(ROOT_NODE)

    @property
    def logs(self) -> Path:
        """Logs, `<node>.<process>.log`."""
        return self.path / "log"

    @property
    def configs(self) -> Path:
        """Configurations of the processes, `<node>.<process>.json`."""
        return self.path / "config"

    @property
    def credentials(self) -> Path:
        """The credentials of everybody, a folder each."""
        return self.path / "credentials"

    def identity(self, name: str) -> Path:
        """The credentials of a node, of the controller, of an operator or of a reader."""
        return self.credentials / name

    @property
    def socket(self) -> Path:
        """Where the launcher answers."""
        return self.path / "launcher.sock"

    def controller_socket(self, name: str) -> Path:
        """Where a controller answers on this machine."""
        return self.path / f"{name}.sock"

    @property
    def web_socket(self) -> Path:
        """Where the web page's process gives out addresses."""
        return self.path / "web.sock"

    @property
    def inventory(self) -> Path:
        """What the controller controls (`controller.inventory`)."""
        return self.path / "inventory.json"

    @property
    def vips(self) -> Path:
        """The VIPs of a testbed without a controller (`holdings`)."""
        return self.path / "vips.json"

    def namespace(self, node: str) -> Path:
        """The namespace of a node."""
        return self.namespaces / node

    def log(self, node: str, process: str) -> Path:
        """The log of a node's process."""
        return self.logs / f"{node}.{process}.log"

    def config(self, node: str, process: str) -> Path:
        """The configuration of a node's process."""
        return self.configs / f"{node}.{process}.json"

    def state(self, node: str) -> Path:
        """Where a node's processes keep what must survive them."""
        return self.path / "state" / node

    @property
    def sockets(self) -> Path:
        """Where P4 switches answer their agents."""
        return self.path / "p4"

    def p4runtime(self, node: str) -> Path:
        """The Unix socket of a P4 switch."""
        return self.sockets / node

    @property
    def bpf(self) -> Path:
        """The BPF file system that keeps the nodes' data paths while no agent of theirs lives."""
        return self.path / "bpf"

    def pins(self, node: str) -> Path:
        """What a node's data path has pinned."""
        return self.bpf / node

    def not_up(self) -> TestbedError:
        """Return the error for a testbed that is not there."""
        return TestbedError(
            f"no testbed named {self.name!r} is up: start it with `duet testbed up --name {self.name}`"
        )

    def in_use(self) -> str:
        """Say that the name is taken, and what to do about it."""
        return (
            f"there is a testbed named {self.name!r} already: `duet testbed down --name {self.name}` "
            "removes it, `--name` gives another name"
        )

    def bound(self) -> list[Path]:
        """Every namespace file there is."""
        return sorted(self.namespaces.iterdir()) if self.namespaces.is_dir() else []

    def create(self) -> None:
        """Make the folder and those in it, private to root; its name must be free.

        The controllers' group, which nobody else is in, may pass through, to what is the controllers' own.
        """
        ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o710)
        except FileExistsError:
            raise TestbedError(self.in_use()) from None
        for folder in (self.namespaces, self.logs, self.configs, self.sockets):
            folder.mkdir(mode=0o700)
        for folder in (self.path, self.configs, self.credentials, self.path / "state"):
            folder.mkdir(mode=0o710, exist_ok=True)
            os.chown(folder, 0, CONTROLLER_USER)
            folder.chmod(0o710)


def in_the_way(error: OSError) -> str:
    """Say what was in a command's way, and what to do where that is a want of rights."""
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return f"{error.filename} is root's, as all of a testbed: use sudo"
    return str(error)


def existing() -> list[Folder]:
    """Return every testbed that left a folder on this machine."""
    if not ROOT.is_dir():
        return []
    names = (entry for entry in os.listdir(ROOT) if _NAME.fullmatch(entry))  # noqa: PTH208
    return [Folder(name) for name in sorted(names)]
