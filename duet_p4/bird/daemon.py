"""Runs BIRD in the current network namespace, keeps it running, and asks it for its state.

BIRD outlives the process that started it: whoever comes next finds it by its control socket and
takes over, so the death of an agent does not end a BGP session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from duet_p4 import durable
from duet_p4.backoff import Backoff
from duet_p4.bird.config import BirdConfig, Neighbor, render

logger = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 107
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 3.0
_POLL_S = 0.01
_QUERY_TIMEOUT_S = 1.0
_FIRST_RESTART_S = 0.05
_LONGEST_RESTART_S = 5.0
_OK_RUN_S = 30.0


class BirdError(Exception):
    """BIRD is not there, does not start, or refuses what it was told."""


@dataclass(frozen=True)
class Session:
    """A BGP session; `info` is BIRD's word on it, such as `Established` or `Active`.

    `bfd` is its word on the BFD session with the neighbour, such as `Up`; empty where there is none.
    """

    neighbor: Neighbor
    state: str
    since: str
    info: str
    bfd: str = ""

    @property
    def established(self) -> bool:
        """Whether routes are exchanged."""
        return self.info == "Established"


@dataclass(frozen=True)
class Route:
    """A best route that BIRD holds; `via` is empty for a route of the node's own."""

    prefix: IPv4Network
    protocol: str
    via: tuple[tuple[IPv4Address, str], ...]


class Bird:
    """One BIRD process, its files in `directory`: bird.conf, bird.ctl, bird.log.

    With `die_with_parent`, the kernel kills it when the process that started it ends.
    """

    def __init__(self, config: BirdConfig, directory: Path, *, die_with_parent: bool = False) -> None:
        self.config = config
        self._prefix = ["setpriv", "--pdeathsig", "KILL"] if die_with_parent else []
        self._conf = directory / "bird.conf"
        self._ctl = directory / "bird.ctl"
        self._log = directory / "bird.log"
        if len(str(self._ctl)) > _MAX_SOCKET_PATH:
            raise BirdError(f"{self._ctl} is too long for a socket's path: use a shorter run directory")
        self._child: subprocess.Popen[bytes] | None = None
        self._asking = asyncio.Lock()
        self._configuring = asyncio.Lock()
        self._died = False
        """Whether the last BIRD ended by itself, so that its routes are still in the kernel."""
        self.pid: int | None = None
        self.problem = ""
        """Why BIRD does not run as configured; else nothing."""

    def processes(self) -> dict[str, int]:
        """Return BIRD's process id by its name, where it runs."""
        return {} if self.pid is None else {"bird": self.pid}

    def find(self) -> int | None:
        """Return the process id of the BIRD that serves the control socket, if there is one.

        Raises `BirdError` where it is too busy to say. Does not wait.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(str(self._ctl))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except OSError as error:
                raise BirdError(f"BIRD at {self._ctl} takes no connection: {error.strerror}") from error
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", peer)[0]
        return pid

    def runs(self) -> bool:
        """Return whether a BIRD runs here, and with the wanted configuration."""
        wanted = render(self.config, self._log).encode()
        with contextlib.suppress(BirdError):
            return self.find() is not None and self._conf.exists() and self._conf.read_bytes() == wanted
        return False

    async def start(self) -> None:
        """Take over the BIRD that runs here, or start one; it has the wanted configuration afterwards.

        Raises `BirdError`.
        """
        async with self._configuring:
            await self._write_configuration()
            self.pid = await self._find_patiently()
            if self.pid is None:
                self._spawn()
                await self._answering()
                logger.info("started BIRD, process %d", self.pid)
            else:
                logger.info("took over BIRD, process %d", self.pid)
                # Whatever the file said before: whoever wrote it may have died before BIRD was told.
                await self.query(f'configure "{self._conf}"')

    async def reconfigure(self, config: BirdConfig) -> None:
        """Have another configuration; sessions that it leaves as they are stay up. Raises `BirdError`."""
        async with self._configuring:
            self.config = config
            await self._write_configuration()
            if self.pid is not None:
                await self.query(f'configure "{self._conf}"')

    async def stop(self) -> None:
        """End BIRD; its sessions close and its routes leave the kernel."""
        pid, self.pid = self.pid or self.find(), None
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                try:
                    async with asyncio.timeout(_STOP_TIMEOUT_S):
                        await _exited(handle)
                except TimeoutError:
                    logger.warning("BIRD did not end in %g s: killing it", _STOP_TIMEOUT_S)
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    await _exited(handle)
            finally:
                os.close(handle)
        self._reap()

    async def supervise(self, restarted: Callable[[], None] = lambda: None) -> None:
        """Have BIRD run as configured, and start it again whenever it ends; runs until cancelled.

        More slowly if it keeps ending. `restarted` is called once a BIRD runs that others were not told of.
        """
        backoff = Backoff(_FIRST_RESTART_S, _LONGEST_RESTART_S)
        loop = asyncio.get_running_loop()
        while True:
            if self.pid is None or self.problem:
                try:
                    await self.start()
                except (BirdError, OSError) as error:
                    self.problem = str(error)
                    logger.error("%s", error)
                    await asyncio.sleep(backoff.failed())
                    continue
                self.problem = ""
                restarted()
            began = loop.time()
            await self._ended(self.pid)
            self.problem = f"BIRD, process {self.pid}, ended{self._reap()}"
            logger.error("%s: starting it again", self.problem)
            self.pid = None
            self._died = True
            if loop.time() - began > _OK_RUN_S:
                backoff.succeeded()
            await asyncio.sleep(backoff.failed())

    async def _ended(self, pid: int | None) -> None:
        """Wait until a process has ended."""
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                await _exited(handle)
            finally:
                os.close(handle)

    async def query(self, command: str) -> list[str]:
        """Send a command to BIRD and return the lines of its answer.

        Raises `BirdError`, also where BIRD does not answer in a second.
        """
        try:
            async with asyncio.timeout(_QUERY_TIMEOUT_S), self._asking:
                return await self._ask(command)
        except TimeoutError:
            raise BirdError(f"BIRD at {self._ctl} does not answer in {_QUERY_TIMEOUT_S:g} s") from None
        except (OSError, ValueError, EOFError) as error:
            raise BirdError(f"no BIRD at {self._ctl}: {error}") from error

    async def _ask(self, command: str) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(sock=await self._connected())
        try:
            await _reply(reader)
            writer.write(f"{command}\n".encode())
            return await _reply(reader)
        finally:
            writer.close()

    async def _connected(self) -> socket.socket:
        """Return a connection to the control socket. Raises OSError.

        Where BIRD has not taken the last ones yet, a connection is refused with EAGAIN, and no event tells
        when to try again; a loop's own `sock_connect` would take it for connected.
        """
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(self._ctl))
            except BlockingIOError:
                client.close()
                await asyncio.sleep(_POLL_S)
            except BaseException:
                client.close()
                raise
            else:
                return client

    async def set_session(self, neighbor: Neighbor, *, enabled: bool) -> None:
        """End a neighbour's session and forget its routes at once, or have it come up. Raises `BirdError`."""
        await self.query(f"{'enable' if enabled else 'disable'} {neighbor.protocol}")

    async def sessions(self) -> list[Session]:
        """Return the BGP sessions, in the order of the configuration."""
        rows = {}
        for line in await self.query("show protocols"):
            name, *fields = line.split(maxsplit=5)
            if len(fields) >= 4:
                rows[name] = fields
        watched = await self._watched() if any(one.bfd for one in self.config.neighbors) else {}
        sessions = []
        for neighbor in self.config.neighbors:
            fields = rows.get(neighbor.protocol, ["BGP", "---", "down", "", "unknown to BIRD"])
            info = fields[4] if len(fields) > 4 else ""
            bfd = watched.get(str(neighbor.address), "")
            sessions.append(Session(neighbor, state=fields[2], since=fields[3], info=info.strip(), bfd=bfd))
        return sessions

    async def _watched(self) -> dict[str, str]:
        """Return the state of the BFD session with each neighbour that has one, by its address."""
        rows = [line.split() for line in await self.query("show bfd sessions")]
        return {row[0]: row[2] for row in rows if len(row) >= 6}

    async def routes(self, table: str = "master4") -> list[Route]:
        """Return the best route to every prefix of a BIRD table, in BIRD's order."""
        routes: list[Route] = []
        for line in await self.query(f"show route table {table} primary"):
            if head := re.match(r"(\d\S+/\d+)\s+\w+ \[(\S+) ", line):
                routes.append(Route(IPv4Network(head[1]), head[2], ()))
            elif hop := re.match(r"\s+via (\S+) on (\S+)", line):
                last = routes[-1]
                routes[-1] = Route(last.prefix, last.protocol, (*last.via, (IPv4Address(hop[1]), hop[2])))
        return routes

    async def _write_configuration(self) -> None:
        """Have bird.conf as wanted, unless BIRD refuses it. Raises `BirdError` and then changes nothing."""
        wanted = render(self.config, self._log).encode()
        if self._conf.exists() and self._conf.read_bytes() == wanted:
            return
        draft = self._conf.with_suffix(".new")
        durable.write(draft, wanted, mode=0o600)  # it has passwords
        check = await asyncio.create_subprocess_exec(
            *(_binary(), "-p", "-c", str(draft)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, said = await check.communicate()
        if check.returncode:
            raise BirdError(f"BIRD refuses {draft}: {said.decode(errors='replace').strip()}")
        durable.move(draft, self._conf)

    async def _find_patiently(self) -> int | None:
        """Return what `find` does; wait for a BIRD that is busy. Raises `BirdError`."""
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while True:
            try:
                return self.find()
            except BirdError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)

    def _spawn(self) -> None:
        binary = _binary()
        recover = ["-R"] if self._died else []
        self._died = False
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*self._prefix, binary, "-f", *recover, "-c", self._conf, "-s", self._ctl],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._child.pid

    async def _answering(self) -> None:
        """Wait until the control socket answers."""
        child = self._child
        assert child is not None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not self._is_found(child.pid):
                    if child.poll() is not None:
                        raise BirdError(f"BIRD ended at once{self._reap()}: see {self._log}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BirdError(f"BIRD does not answer on {self._ctl}: see {self._log}") from None

    def _is_found(self, pid: int) -> bool:
        try:
            return self.find() == pid
        except BirdError:
            return False

    def _reap(self) -> str:
        """Collect a child that ended, and return what there is to say about its end."""
        child, self._child = self._child, None
        if child is None:
            return ""
        return f" with status {child.wait()}"


def _binary() -> str:
    binary = shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if binary is None:
        raise BirdError("bird is not on PATH: install bird2")
    return binary


async def _reply(reader: asyncio.StreamReader) -> list[str]:
    """Read one answer: lines of a code and a text, until one whose code is final."""
    lines: list[str] = []
    code = ""
    while raw := await reader.readline():
        line = raw.decode(errors="replace").rstrip("\n")
        if line.startswith((" ", "+")):
            lines.append(line[1:])
            continue
        code, final, text = line[:4], line[4:5] != "-", line[5:]
        if code[:1] in ("8", "9"):
            raise BirdError(text)
        if text:
            lines.append(text)
        if final:
            return lines
    raise BirdError("BIRD closed its control socket")


async def _exited(pidfd: int) -> None:
    """Wait until the process behind `pidfd` has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
