"""What the shell offers for values on TAB: VIPs, DIPs, switches and other devices, as the controller tells.

Where it does not answer at once, or may not be asked, nothing is offered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from controller.cli.session import RUN
from controller.client import local_socket
from controller.records import ON_SMUXES
from duet_p4.rest.http import HttpError, Wire

_PATIENCE_S = 1.0
_OFFERED = 200


def vips(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer VIPs."""
    return vips_at(_socket(context), text)


def vips_at(socket: Path, text: str) -> list[str]:
    """Offer the VIPs of the controller at a Unix socket."""
    listing = _ask_at(socket, "/v1/listing") or {}
    return _fitting((vip["address"] for vip in listing.get("vips", ())), text)


def switches(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer switches, and the SMuxes."""
    inventory = _ask(context, "/v1/inventory") or {}
    names = [switch["name"] for switch in inventory.get("switches", ())]
    return _fitting([*names, *([ON_SMUXES] if names else [])], text)


def smuxes(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer SMuxes."""
    inventory = _ask(context, "/v1/inventory") or {}
    return _fitting((smux["name"] for smux in inventory.get("smuxes", ())), text)


def devices(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer whoever has an agent: switches, SMuxes and servers."""
    inventory = _ask(context, "/v1/inventory") or {}
    kinds = (inventory.get(kind, ()) for kind in ("switches", "smuxes", "servers"))
    return _fitting((device["name"] for kind in kinds for device in kind), text)


def dips(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer the DIPs of the VIP that was named before, or else those that servers have."""
    if vip := context.params.get("address"):
        spec = (_ask(context, f"/v1/vips/{vip}") or {}).get("spec", {})
        stated = [*spec.get("dips", ()), *(dip for port in spec.get("ports", ()) for dip in port["dips"])]
        return _fitting((dip["address"] for dip in stated), text)
    return server_dips(context, _, text)


def server_dips(context: click.Context, _: click.Parameter, text: str) -> list[str]:
    """Offer the addresses that servers have for DIPs."""
    inventory = _ask(context, "/v1/inventory") or {}
    return _fitting((dip for server in inventory.get("servers", ()) for dip in server["dips"]), text)


def _fitting(values: Iterable[str], text: str) -> list[str]:
    return [value for value in dict.fromkeys(values) if value.startswith(text)][:_OFFERED]


def _socket(context: click.Context) -> Path:
    params = context.params
    return Path(params.get("socket") or local_socket(RUN.parent / (params.get("testbed") or RUN.name)))


def _ask(context: click.Context, path: str) -> Any:
    return _ask_at(_socket(context), path)


def _ask_at(socket: Path, path: str) -> Any:
    try:
        return asyncio.run(_get(socket, path))
    except (HttpError, OSError, ValueError):
        return None


async def _get(socket: Path, path: str) -> Any:
    wire = Wire("http://controller", local=socket)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reply = await wire.request("GET", path, {}, None)
    finally:
        await wire.close()
    return json.loads(reply.content) if reply.status < HTTPStatus.BAD_REQUEST else None
