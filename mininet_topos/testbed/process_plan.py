"""A testbed's processes and what each finds when it starts: planned as values, then written at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mininet_topos.testbed import rights
from mininet_topos.testbed.supervisor import Process


@dataclass(frozen=True)
class File:
    """A file that a process reads; `user` owns it, root where that is None."""

    path: Path
    text: str
    user: int | None = None


@dataclass(frozen=True)
class StateFolder:
    """Where a process keeps what must survive it; nobody else can enter. It is owned as a `File` is."""

    path: Path
    user: int | None = None


@dataclass(frozen=True)
class ProcessPlan:
    """Processes in the order in which to start them, and all that must be there before.

    `links` are symbolic links and where they lead, `given` folders that are there already, with their files,
    and the user to whom they go.
    """

    processes: tuple[Process, ...]
    states: tuple[StateFolder, ...]
    files: tuple[File, ...]
    links: tuple[tuple[Path, Path], ...] = ()
    given: tuple[tuple[Path, int], ...] = ()

    def write(self) -> None:
        """Make what the processes find. Raises OSError."""
        for state in self.states:
            state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if state.user is not None:
                rights.give(state.path, state.user)
        for file in self.files:
            file.path.touch(mode=0o600)
            file.path.write_text(file.text)
            if file.user is not None:
                rights.give(file.path, file.user)
        for link, target in self.links:
            link.symlink_to(target)
        for folder, user in self.given:
            rights.give(folder, user)
