"""Who a browser is: an address that works once is exchanged for a cookie.

Whoever may open the gateway's Unix socket asks there for a ticket, and hands it to a browser within an
address. The cookie says what its owner may do, sealed with a key that only the gateway's owner can read; it
holds as long as that key does.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

TICKET_S = 3600.0
"""How long an address can be used."""

_TICKETS = 1000


class Rights(StrEnum):
    """What a browser may do: everything, or look."""

    OPERATOR = "operator"
    READER = "reader"


class Sessions:
    """Tickets and cookies of one gateway."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._tickets: dict[str, tuple[Rights, float]] = {}

    @classmethod
    def kept(cls, path: Path) -> Sessions:
        """Return the sessions whose key is in a file that only its owner can read; it is made if need be."""
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(32)
            made = path.with_suffix(".new")
            made.unlink(missing_ok=True)
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
            made.replace(path)
        return cls(key)

    def ticket(self, rights: Rights) -> str:
        """Return a word that `redeem` takes once."""
        now = self._clock()
        self._tickets = {word: held for word, held in self._tickets.items() if held[1] > now}
        while len(self._tickets) >= _TICKETS:
            del self._tickets[next(iter(self._tickets))]
        word = secrets.token_urlsafe(24)
        self._tickets[word] = (rights, now + TICKET_S)
        return word

    def redeem(self, word: str) -> str | None:
        """Return the cookie for a ticket; None for one that was used, is old, or never was."""
        rights, until = self._tickets.pop(word, (None, 0.0))
        if rights is None or until <= self._clock():
            return None
        return f"{rights}.{self._seal(rights)}"

    def rights(self, cookie: str | None) -> Rights | None:
        """Return what the owner of a cookie may do; None for a cookie that is not ours."""
        said, _, seal = (cookie or "").partition(".")
        if said not in list(Rights):
            return None
        rights = Rights(said)
        return rights if hmac.compare_digest(seal.encode(), self._seal(rights).encode()) else None

    def _seal(self, rights: Rights) -> str:
        return hmac.new(self._key, rights.value.encode(), hashlib.sha256).hexdigest()
