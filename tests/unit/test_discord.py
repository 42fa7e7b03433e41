"""What chaos sees of who leads."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from controller.client import ControllerClient
from controller.cluster.lease import Leader
from controller.cluster.status import ClusterStatus
from mininet_topos.experiments.discord import Cluster
from mininet_topos.testbed.folder import Folder


class Controller:
    """Says who leads, or freezes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.leader: Leader | None = None
        self.frozen = False

    async def cluster(self) -> ClusterStatus:
        if self.frozen:
            await asyncio.Event().wait()
        return ClusterStatus(name=self.name, leads=self.leader is not None, leader=self.leader, vips=0)


def test_a_controller_that_does_not_answer_delays_no_sight_of_a_new_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mininet_topos.experiments.discord._ANSWER_S", 120.0)
    old, new = Controller("old"), Controller("new")
    old.leader = Leader(name="old", url="http://old", term=1, lease_s=1.0)
    clients = {one.name: cast(ControllerClient, one) for one in (old, new)}
    cluster = Cluster(Folder("none"), clients, [], random.Random(0))

    async def leads(name: str) -> None:
        async with asyncio.timeout(60):
            while cluster.leader() != name:  # noqa: ASYNC110 - the watch's to tell
                await asyncio.sleep(0.01)

    async def main() -> None:
        watching = asyncio.create_task(cluster.watch())
        await leads("old")
        old.frozen = True
        new.leader = Leader(name="new", url="http://new", term=2, lease_s=1.0)
        await leads("new")
        watching.cancel()

    asyncio.run(main())
    assert [reign.leader.term for reign in cluster.reigns] == [1, 2]
