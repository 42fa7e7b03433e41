"""The operator of chaos: what it believes after a request was cut off, and what it calls lost."""

from __future__ import annotations

import asyncio
import random
import time
from ipaddress import IPv4Address
from typing import Any, cast
from unittest.mock import patch

import pytest

from controller.client import ControllerClient
from controller.records import VipRecord
from controller.updater.layout import lay_out
from duet_p4.model import Vip
from duet_p4.rest.client import UnreachableError
from mininet_topos.addresses import Kind
from mininet_topos.experiments import churn
from mininet_topos.experiments.churn import Fate, Operator
from mininet_topos.fattree import FatTree, fattree, nodes

SERVERS = [n for n in nodes(fattree(FatTree(servers=3, dip_servers=12)), Kind.SERVER) if n.is_dip]


class Controller:
    """Takes new VIPs, or not, and answers or is cut off; then it tells what it holds."""

    def __init__(self, *, takes: bool = True, answers: bool = True) -> None:
        self.takes = takes
        self.answers = answers
        self.held: dict[IPv4Address, VipRecord] = {}

    async def add_vip(self, vip: Vip, switch: str | None = None) -> None:
        if self.takes:
            record = lay_out(vip, 512, lambda: IPv4Address("20.0.0.1"))
            self.held[vip.address] = record.model_copy(update={"switch": switch, "held": bool(switch)})
        if not self.answers:
            raise UnreachableError("the controller died")

    async def remove_vip(self, vip: IPv4Address) -> None:
        if self.takes:
            del self.held[vip]

    async def vips(self) -> list[VipRecord]:
        return list(self.held.values())


def operator(controller: Controller, seed: int = 0) -> Operator:
    return Operator([cast(ControllerClient, controller)], random.Random(seed), ["tor1", "agg1"], SERVERS)


@pytest.mark.parametrize(
    ("takes", "answers", "fate"),
    [
        (True, True, Fate.ACKNOWLEDGED),
        (True, False, Fate.TAKEN),
        (False, False, Fate.NOT_TAKEN),
    ],
)
def test_a_request_that_was_cut_off_is_resolved_by_asking(takes: bool, answers: bool, fate: Fate) -> None:
    controller = Controller(takes=takes, answers=answers)
    chaos = operator(controller)
    with patch.object(churn, "_CARRIED_ON_S", 0.2):
        change = asyncio.run(chaos.change())
    assert change.fate is fate
    assert set(chaos.wanted) == set(controller.held)
    asyncio.run(chaos.check())
    assert chaos.lost == []


def test_a_request_that_is_carried_on_after_it_was_cut_off_is_taken() -> None:
    class Late(Controller):
        async def add_vip(self, vip: Vip, switch: str | None = None) -> None:
            self.later = asyncio.get_running_loop().call_later(0.3, self.take, vip, switch)
            raise UnreachableError("the follower that passed it on died")

        def take(self, vip: Vip, switch: str | None) -> None:
            record = lay_out(vip, 512, lambda: IPv4Address("20.0.0.1"))
            self.held[vip.address] = record.model_copy(update={"switch": switch, "held": bool(switch)})

    controller = Late()
    chaos = operator(controller)

    async def run() -> None:
        assert (await chaos.change()).fate is Fate.TAKEN
        await chaos.check()

    asyncio.run(run())
    assert chaos.lost == []


def test_dips_leave_from_when_a_request_is_made_until_it_is_over() -> None:
    held = asyncio.Event()

    class Slow(Controller):
        async def remove_vip(self, vip: IPv4Address) -> None:
            await held.wait()
            await super().remove_vip(vip)

    async def removed() -> None:
        chaos = operator(Slow())
        began = time.monotonic()
        vip, other = (await chaos.change()).vip, (await chaos.change()).vip
        dip, stays = (chaos.wanted[one].spec.all_dips()[0].address for one in (vip, other))
        with patch.object(chaos, "_choose", lambda: ("remove", vip, None, lambda c: c.remove_vip(vip))):
            change = asyncio.create_task(chaos.change())
            await asyncio.sleep(0)
            later = time.monotonic()
            assert chaos.left_since(vip, dip, later), "it is being taken away"
            held.set()
            await change
        assert chaos.left_since(vip, dip, later), "it may have had flows until then"
        assert chaos.left_since(vip, dip, time.monotonic()), "muxes may not have heard of it"
        assert not chaos.left_since(other, stays, began)

    asyncio.run(removed())


def test_an_acknowledged_change_that_is_gone_is_lost() -> None:
    controller = Controller(takes=False)
    chaos = operator(controller)
    change = asyncio.run(chaos.change())
    asyncio.run(chaos.check())
    assert chaos.lost == [f"VIP {change.vip} is not there, though it was added"]


def test_the_same_seed_makes_the_same_changes() -> None:
    async def changes(seed: int) -> list[Any]:
        chaos = operator(Controller(), seed)
        return [await chaos.change() for _ in range(5)]

    assert asyncio.run(changes(1)) == asyncio.run(changes(1))
    assert asyncio.run(changes(1)) != asyncio.run(changes(2))
