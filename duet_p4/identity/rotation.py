"""New certificates for everybody, by a new authority, while everything runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from duet_p4.api.service import Whoami
from duet_p4.identity.authority import IDENTITY, TRUST, Authority, write
from duet_p4.identity.credentials import LOOK_S, Credentials, trusted_pem

_POLL_S = 0.2

Ask = Callable[[str], Awaitable[Whoami | None]]
"""Asks a service, by its name, for its identity; None where it does not answer."""


class RotationError(Exception):
    """A rotation that stopped half-way; what it had done is no harm, and it can be tried again."""


def holders(folder: Path) -> dict[str, Credentials]:
    """Return all credentials of an installation, by name. Raises CredentialsError."""
    return {path.name: Credentials(path) for path in sorted(folder.iterdir()) if path.is_dir()}


async def rotate(
    folder: Path, services: Iterable[str], ask: Ask, tell: Callable[[str], None], patience_s: float = 30.0
) -> list[str]:
    """Give everybody below `folder` a new certificate, and have only the new authority believed.

    First everybody believes both authorities, then everybody gets a certificate of the new one, then
    nobody believes the old one any more; each step waits until all `services` have taken it, so at no moment
    do two of them not believe each other. Returns the services that did not answer at the beginning: they
    find their new credentials when they start. Raises RotationError, naming who did not take a step in
    `patience_s`, and OSError.
    """
    held = holders(folder)
    authority = Authority()
    asked = [name for name in services if name in held]
    answers = dict(zip(asked, await asyncio.gather(*(ask(name) for name in asked)), strict=True))
    silent = [name for name, answer in answers.items() if answer is None]
    live = [name for name in asked if name not in silent]

    async def await_all(step: str, taken: Callable[[str, Whoami], bool]) -> None:
        # Who only asks, and answers nobody, finds new files by itself.
        await asyncio.sleep(2 * LOOK_S)
        waiting = set(live)
        deadline = time.monotonic() + patience_s
        while True:
            names = sorted(waiting)
            found = await asyncio.gather(*(ask(name) for name in names))
            waiting -= {n for n, answer in zip(names, found, strict=True) if answer and taken(n, answer)}
            if not waiting:
                tell(step)
                return
            if time.monotonic() > deadline:
                raise RotationError(
                    f"not everybody {step}: not {', '.join(sorted(waiting))}; nothing is broken, try again"
                )
            await asyncio.sleep(_POLL_S)

    for credentials in held.values():
        path = credentials.folder / TRUST
        write(path, trusted_pem(path.read_bytes(), authority.pem))
    await await_all("believes the new authority", lambda _, a: authority.fingerprint in a.trusted)
    for credentials in held.values():
        pem = authority.sign(credentials.identity, credentials.addresses)
        write(credentials.folder / IDENTITY, pem)
    serials = {name: Credentials(folder / name).serial for name in held}
    await await_all("has a new certificate", lambda name, a: a.serial == serials[name])
    for credentials in held.values():
        write(credentials.folder / TRUST, authority.pem)
    only = (authority.fingerprint,)
    await await_all("believes nobody else", lambda _, a: a.trusted == only)
    return silent
