"""What an agent holds, on disk: one small file per VIP or TIP, each replaced atomically.

A change that was written survives the death of the process at any moment (not that of the machine).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Generic, TypeVar

from duet_p4.model import Model

Entry = TypeVar("Entry", bound=Model)


class JournalError(Exception):
    """A journal cannot be read; the message names the file."""


class Journal(Generic[Entry]):
    """Entries of one model, by address, in the folder `folder`."""

    def __init__(self, folder: Path, model: type[Entry]) -> None:
        self._folder = folder
        self._model = model
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> Iterator[Entry]:
        """Yield every entry, ordered by address. Raises JournalError where a file holds something else."""
        for path in sorted(self._folder.glob("*.json"), key=lambda path: IPv4Address(path.stem)):
            try:
                yield self._model.from_file(path)
            except ValueError as error:
                raise JournalError(f"{error}; remove the file") from error

    def put(self, address: IPv4Address, entry: Entry) -> None:
        """Write an entry in place of the one that the address has."""
        partial = self._path(address).with_suffix(".partial")
        partial.write_text(entry.model_dump_json(), encoding="utf-8")
        partial.replace(self._path(address))

    def restore(self, address: IPv4Address, entry: Entry | None) -> None:
        """Write back what an address had before a change that failed."""
        if entry is None:
            self.delete(address)
        else:
            self.put(address, entry)

    def delete(self, address: IPv4Address) -> None:
        """Remove the entry of an address, if there is one."""
        self._path(address).unlink(missing_ok=True)

    def _path(self, address: IPv4Address) -> Path:
        return self._folder / f"{address}.json"
