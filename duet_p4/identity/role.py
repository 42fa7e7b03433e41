"""Roles, and identities as certificates state them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

_URI = re.compile(r"duet://([a-z]+)/([A-Za-z0-9][A-Za-z0-9.-]{0,62})")


class Role(StrEnum):
    """What somebody is; it decides what they may ask for."""

    CONTROLLER = "controller"
    SWITCH = "switch"
    SMUX = "smux"
    SERVER = "server"
    OPERATOR = "operator"
    READER = "reader"


@dataclass(frozen=True)
class Identity:
    """Who somebody is: `server server1`."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        """Refuse a name that no certificate could carry."""
        if not _URI.fullmatch(self.uri):
            raise ValueError(f"{self.name!r} is no name for a {self.role}: letters, digits, . and - are")

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def uri(self) -> str:
        """The identity as certificates have it."""
        return f"duet://{self.role}/{self.name}"

    @classmethod
    def from_uris(cls, uris: list[str]) -> Self:
        """Return the identity among a certificate's URIs. Raises ValueError where there is not just one."""
        found = [match for uri in uris if (match := _URI.fullmatch(uri))]
        if len(found) != 1 or found[0][1] not in set(Role):
            raise ValueError(f"a certificate with the URIs {uris} says not who its owner is")
        return cls(Role(found[0][1]), found[0][2])

    @classmethod
    def of_peer(cls, certificate: Mapping[str, Any]) -> Self:
        """Return the identity of a verified peer, from `ssl.SSLSocket.getpeercert()`. Raises ValueError."""
        return cls.from_uris(
            [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        )
