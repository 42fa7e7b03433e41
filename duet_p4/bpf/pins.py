"""A data path that outlives its process: maps and links pinned in a BPF file system.

Each process loads its programs with tables of its own, but for the maps that hold what the traffic taught:
those it adopts from its predecessor. Once it has filled its tables, it puts its programs in the place of
the predecessor's, interface by interface, atomically for the packets. Until then the predecessor's
go on to forward, whether it still lives or not.
"""

from __future__ import annotations

import ctypes as c
import errno
import logging
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from duet_p4.bpf import libbpf
from duet_p4.bpf.attach import Filter, Link, attach_tc, attach_xdp
from duet_p4.bpf.errors import BpfError
from duet_p4.bpf.objects import ANY, NOEXIST, Map, Object, Program

logger = logging.getLogger(__name__)

_BPF_FS_MAGIC = 0xCAFE4A11
_MNT_DETACH = 2
_MAP_INFO = 88
_libc = c.CDLL(None, use_errno=True)


Mover = Callable[[Map, Map], None]
"""Takes the entries of a map along into another one of its kind, with another number of entries."""


class Pins:
    """What a node's data path has pinned, in the folder `folder` of a BPF file system of its own.

    `layout` numbers what the maps mean: those pinned under another number are left to the predecessor,
    and forgotten with it. So are maps whose keys, values or kind differ. Entries of a map whose size differs
    are taken along by their keys, as many as fit, or as a mover says.
    """

    def __init__(self, folder: Path, layout: int) -> None:
        """Mount the file system where it is missing. Raises BpfError where that cannot be."""
        mount(folder)
        self._folder = folder
        self._maps = folder / f"maps-{layout}"
        self._links = folder / "links"
        self._left: list[tuple[Map, str]] = []
        for path in (self._maps, self._links):
            path.mkdir(exist_ok=True)

    def load(
        self,
        opened: Object,
        state: Collection[str],
        *,
        rodata: Mapping[str, bytes] | None = None,
        max_entries: Mapping[str, int] | None = None,
        movers: Mapping[str, Mover] | None = None,
    ) -> None:
        """Load an object with the maps named in `state` adopted, and those that are new pinned.

        `movers` are for maps whose keys mean something else where there are more or fewer of them, as places
        of a hash do.
        """
        for name, entries in (max_entries or {}).items():
            opened.resize(name, entries)
        held = {name: _opened(self._maps / name, name) for name in state if (self._maps / name).exists()}
        shared = {name: old for name, old in held.items() if old.shape == opened.shape(name)}
        opened.load(rodata, share=shared)
        for name in state:
            old = held.get(name)
            if name in shared:
                shared[name].close()
                continue
            (self._maps / name).unlink(missing_ok=True)
            _pin(opened.map(name).fd, self._maps / name)
            if old is None:
                continue
            if old.shape[:-1] == opened.shape(name)[:-1]:
                logger.info(
                    "map %s has %d entries now, not %d", name, opened.shape(name)[-1], old.max_entries
                )
                if mover := (movers or {}).get(name):
                    mover(old, opened.map(name))
                    old.close()
                else:
                    _copy(old, opened.map(name))
                    self._left.append((old, name))
            else:
                logger.warning("map %s begins empty: its entries have another form now", name)
                old.close()

    def attach_xdp(self, program: Program, ifindex: int, mode: Literal["native", "skb"] = "native") -> Link:
        """As `bpf.attach_xdp`, in the place of the predecessor's program where that is on the interface."""
        path = self._links / f"xdp-{ifindex}"
        held = self._takes_over(path, program, ifindex)
        return held or self._pin_link(attach_xdp(program, ifindex, mode), path)

    def attach_tc(
        self, program: Program, ifindex: int, direction: Literal["ingress", "egress"]
    ) -> Link | Filter:
        """As `bpf.attach_tc`, in the place of the predecessor's program where that is on the interface."""
        path = self._links / f"tc-{direction}-{ifindex}"
        held = self._takes_over(path, program, ifindex)
        if held:
            return held
        made = attach_tc(program, ifindex, direction)
        return self._pin_link(made, path) if isinstance(made, Link) else made

    def settle(self, links: Iterable[Link | Filter]) -> None:
        """Forget what only the predecessor used, once all of `links` are this process's."""
        kept = {link.ifindex for link in links if isinstance(link, Link)}
        for path in self._links.iterdir():
            if int(path.name.rpartition("-")[2]) not in kept:
                path.unlink()
        for old, name in self._left:
            # What it learned since the entries were taken along.
            with closing(_opened(self._maps / name, name)) as new:
                _copy(old, new, NOEXIST)
            old.close()
        self._left.clear()
        for path in self._folder.glob("maps-*"):
            if path != self._maps:
                shutil.rmtree(path)

    def _pin_link(self, link: Link, path: Path) -> Link:
        path.unlink(missing_ok=True)
        _pin(link.fd, path)
        return link

    def _takes_over(self, path: Path, program: Program, ifindex: int) -> Link | None:
        """Put a program behind a pinned link, if that is still on the interface."""
        if not path.exists():
            return None
        link = Link(_get(path))
        if link.ifindex == ifindex:
            link.update(program)
            return link
        path.unlink()
        link.close()
        return None


def mount(folder: Path) -> None:
    """Have `folder` be in a BPF file system: mount one there unless it is. Raises BpfError."""
    folder.mkdir(parents=True, exist_ok=True)
    if _is_bpf(folder):
        return
    if _libc.mount(b"bpf", bytes(folder), b"bpf", 0, b"mode=0700"):
        reason = os.strerror(c.get_errno())
        raise BpfError(f"cannot mount a BPF file system on {folder}, where the data path is kept: {reason}")


def remove(folder: Path) -> None:
    """Detach and free all that is pinned below `folder`, and unmount it; harmless where there is nothing."""
    if not folder.is_dir() or not _is_bpf(folder):
        return
    for path in folder.iterdir():
        if path.is_dir():  # The kernel's own files, such as maps.debug, cannot be removed.
            shutil.rmtree(path)
    if _libc.umount2(bytes(folder), _MNT_DETACH):
        # A folder of a file system that somebody else has mounted, and may have let us write in only.
        with suppress(PermissionError):
            folder.rmdir()


def _is_bpf(folder: Path) -> bool:
    buffer = c.create_string_buffer(256)
    if _libc.statfs(bytes(folder), buffer):
        raise OSError(c.get_errno(), os.strerror(c.get_errno()), str(folder))
    kind: int = struct.unpack_from("=q", buffer)[0]
    return kind == _BPF_FS_MAGIC


def _pin(fd: int, path: Path) -> None:
    if libbpf.library().bpf_obj_pin(fd, bytes(path)):
        raise BpfError(f"cannot pin {path}: {os.strerror(libbpf.last_error())}")


def _get(path: Path) -> int:
    fd = int(libbpf.library().bpf_obj_get(bytes(path)))
    if fd < 0:
        raise BpfError(f"cannot take {path}: {os.strerror(libbpf.last_error())}")
    return fd


def _opened(path: Path, name: str) -> Map:
    fd = _get(path)
    kind, _, key_size, value_size, max_entries, flags = struct.unpack_from(
        "=6I", libbpf.object_info(fd, _MAP_INFO)
    )
    return Map(name, fd, kind, key_size, value_size, max_entries, flags=flags, own=True)


def _copy(old: Map, new: Map, flags: int = ANY) -> None:
    for key, value in old.items():
        try:
            new.write(key, value, flags)
        except OSError as error:
            # There already (as all of an array is), or no room.
            if error.errno not in (errno.EEXIST, errno.E2BIG, errno.ENOMEM):
                raise
