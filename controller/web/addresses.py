"""Asking a running gateway for an address that a browser can open once."""

from __future__ import annotations

from pathlib import Path

from controller.web.gateway import Address, Ticket
from controller.web.sessions import Rights
from duet_p4.rest.client import RestClient


async def new_address(local: Path, rights: Rights) -> str:
    """Return an address from the gateway that listens on the Unix socket `local`. Raises `RestError`."""
    async with RestClient("http://page", local=local) as client:
        return (await client.call("POST", "/v1/addresses", Address, body=Ticket(rights=rights))).url
