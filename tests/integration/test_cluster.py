"""Several controllers over a real etcd of three members, with muxes that keep their tables in memory."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

import httpx
import pytest

from controller.app import running
from controller.client import ControllerClient
from controller.cluster.etcd import CompactedError, EtcdAwayError, EtcdClient, Transaction, prefix_end
from controller.cluster.lease import Candidate
from controller.config import ClusterConfig, ControllerConfig, Intervals, Listen
from controller.records import Event, Resting
from controller.store.base import Batch, StaleError, StoreError
from controller.store.etcd import EtcdStore, NotLeaderError
from duet_p4.model import Dip, Vip
from duet_p4.rest.client import RestError
from mininet_topos.experiments.linearizable import Operation, is_linearizable
from tests.integration.etcd import Etcd, etcd_cluster, free_ports, proxied
from tests.unit.controller.memory_mux import MemoryMux, served
from tests.unit.controller.test_app import SWITCHES, inventory_of, session_with
from tests.unit.controller.test_store import DOWN, VIP, record

_prefixes = (f"/test{number}/" for number in count())


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    with etcd_cluster() as members:
        yield members


async def leading_store(client: EtcdClient, prefix: str, name: str = "a") -> tuple[EtcdStore, Candidate]:
    candidate = Candidate(client, prefix, name, "http://nowhere", 60)
    store = EtcdStore(client, prefix, candidate.leads, transaction=10_000)
    leadership = await candidate.campaign()
    assert leadership is not None
    store.lead(leadership)
    return store, candidate


def test_what_was_committed_to_etcd_is_there_again_and_is_told(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        resting = Resting(address=VIP + 9, switches=("s1",), since=1.0)
        events = [Event(id=i, time=1.0, kind="k", subject="s", detail={}) for i in range(1, 8)]
        async with EtcdClient(etcd.urls) as client:
            store, _ = await leading_store(client, prefix)
            follower = EtcdStore(client, prefix, lambda: False)
            await follower.load()
            await store.commit(Batch(put=[(record(), 0), (record(1), 0)], down=dict.fromkeys(DOWN, True)))
            first = Batch(put=[(record(switch="s1"), 1)], resting={VIP + 9: resting})
            other = Batch(delete=[(VIP + 1, 1)], cut_off={"server1": True})
            await asyncio.gather(store.commit(first), store.commit(other), store.commit(Batch(events=events)))
            found, revision = await store.load_at()
            assert found.vips == {VIP: (record(switch="s1"), 2)}
            assert (found.down, found.cut_off) == (DOWN, {"server1"})
            assert (found.resting, found.last_event) == ({VIP + 9: resting}, 7)
            assert await store.events(3, 2) == events[3:5]
            assert await store.events(None, 2) == events[5:]
            assert revision == await store.committed()
            heard = Batch()
            async with asyncio.timeout(90):
                async for batch in follower.watch():
                    heard.put += batch.put
                    heard.delete += batch.delete
                    heard.events += batch.events
                    if batch.revision == revision:
                        break
            assert heard.put == [(record(), 0), (record(1), 0), (record(switch="s1"), 1)]
            assert [vip for vip, _ in heard.delete] == [VIP + 1]
            assert heard.events == events

    asyncio.run(main())


def test_a_stale_change_fails_alone_and_a_follower_changes_nothing(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        async with EtcdClient(etcd.urls) as client:
            store, _ = await leading_store(client, prefix)
            await store.commit(Batch(put=[(record(), 0)]))
            came = await asyncio.gather(
                store.commit(Batch(put=[(record(1), 0)])),
                store.commit(Batch(put=[(record(switch="b"), 7), (record(5), 0)])),
                store.commit(Batch(put=[(record(2), 0)])),
                return_exceptions=True,
            )
            assert [type(one) for one in came] == [type(None), StaleError, type(None)]
            assert set((await store.load()).vips) == {VIP, VIP + 1, VIP + 2}
            follower = EtcdStore(client, prefix, lambda: True)
            with pytest.raises(NotLeaderError):
                await follower.commit(Batch(put=[(record(3), 0)]))

    asyncio.run(main())


def test_a_commit_whose_answers_are_lost_is_made_once(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        async with proxied(etcd.urls) as (urls, proxies), EtcdClient(urls) as client:
            store, _ = await leading_store(client, prefix)
            for proxy in proxies:
                proxy.deaf = True
            change = asyncio.create_task(store.commit(Batch(put=[(record(), 0)])))
            async with EtcdClient(etcd.urls) as other, asyncio.timeout(90):
                while (await other.get(f"{prefix}vips/{VIP}"))[0] is None:  # noqa: ASYNC110 - etcd's to tell
                    await asyncio.sleep(0.02)
            assert not change.done()
            for proxy in proxies:
                proxy.deaf = False
            await change
            assert (await store.load()).vips == {VIP: (record(), 1)}
            await store.commit(Batch(put=[(record(switch="s1"), 1)]))

    asyncio.run(main())


def test_what_a_deposed_leader_writes_late_changes_nothing(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        async with EtcdClient(etcd.urls) as client:
            old, _ = await leading_store(client, prefix, "old")
            assert (await old.next_term()) == 1
            judge = Candidate(client, prefix, "new", "http://new", 60)
            found = await judge.leader()
            assert found is not None
            assert await judge.campaign() is None
            await judge.depose(found[1])
            new, _ = await leading_store(client, prefix, "new")
            assert await new.next_term() == 2
            with pytest.raises(NotLeaderError):
                await old.commit(Batch(put=[(record(), 0)]))
            assert old.deposed.is_set()
            assert not (await new.load()).vips

    asyncio.run(main())


def test_a_lease_that_cannot_be_kept_ends_for_its_leader_first(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        async with proxied(etcd.urls) as (urls, proxies), EtcdClient(urls) as client:
            candidate = Candidate(client, prefix, "a", "http://a", 1.0)
            leadership = await candidate.campaign()
            assert leadership is not None
            keeping = asyncio.create_task(candidate.keep(leadership))
            async with EtcdClient(etcd.urls) as other:
                judge = Candidate(other, prefix, "b", "http://b", 5.0)
                found = await judge.leader()
                assert found is not None
                for proxy in proxies:
                    proxy.cut = True
                async with asyncio.timeout(90):
                    await judge.outlast(*found)
                assert not candidate.leads()
                assert await judge.leader() is None
                with pytest.raises(StoreError):
                    await keeping

    asyncio.run(main())


def test_who_has_not_heard_of_a_leader_takes_nothing_from_one_that_went_on(etcd: Etcd) -> None:
    async def main() -> None:
        prefix = next(_prefixes)
        async with EtcdClient(etcd.urls) as client:
            leadership = await Candidate(client, prefix, "a", "http://a", 60).campaign()
            assert leadership is not None
            judge = Candidate(client, prefix, "b", "http://b", 60)
            found = await judge.leader()
            assert found is not None
            before = found[1]
            beat = Transaction().if_created(before.key, leadership.revision).put(before.key, before.value)
            assert (await client.transact(beat)).succeeded
            newest = await judge.take_from(before)
            assert newest is not None
            assert (newest.created, newest.version) == (leadership.revision, 2)
            assert await judge.take_from(newest) is None
            assert not (await client.transact(beat)).succeeded

    asyncio.run(main())


def test_a_member_of_etcd_that_says_nothing_holds_up_no_request_and_no_watch(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.cluster.etcd.ANSWER_S", 120.0)

    async def main() -> None:
        prefix = next(_prefixes)
        async with proxied(etcd.urls) as (urls, proxies), EtcdClient(urls) as client:
            async with asyncio.timeout(60):
                watch = client.watch(prefix, prefix_end(prefix), 1, silent_s=0.3)
                assert await anext(watch) == []
                proxies[0].cut = True
                with pytest.raises(EtcdAwayError):
                    await anext(watch)
                # Its connection is gone; a new one is accepted, and what it is asked lost.
                assert await anext(client.watch(prefix, prefix_end(prefix), 1)) == []
                assert await EtcdClient(urls).get(prefix) is not None

    asyncio.run(main())


def test_old_revisions_are_forgotten_but_for_the_newest(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.store.etcd._KEPT_REVISIONS", 2)
    monkeypatch.setattr("controller.store.etcd._COMPACT_EVERY", 2)

    async def main() -> None:
        prefix = next(_prefixes)
        async with EtcdClient(etcd.urls) as client:
            store, _ = await leading_store(client, prefix)
            first = await store.committed()
            for number in range(5):
                await store.commit(Batch(put=[(record(number), 0)]))
            await store.forget_old()
            with pytest.raises(CompactedError):
                async for _ in client.watch(prefix, prefix_end(prefix), first):
                    pass
            assert len((await store.load()).vips) == 5
            last = await store.committed()
            async for events in client.watch(prefix, prefix_end(prefix), last):
                if events:
                    break

    asyncio.run(main())


class Cluster:
    """Three controllers, each a process of its own, and the muxes that they change."""

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        ports = free_ports(3 + len(SWITCHES) + 1)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[:3]]
        self.mux_ports = dict(zip([*SWITCHES, "smux1"], ports[3:], strict=True))
        self.muxes = {name: MemoryMux(name) for name in self.mux_ports}
        inventory = inventory_of({name: f"http://127.0.0.1:{port}" for name, port in self.mux_ports.items()})
        for one, other in [*(link.ends for link in inventory.links), ("tor1", "smux1")]:
            self.muxes[one].sessions += (session_with(other),)
            self.muxes[other].sessions += (session_with(one),)
        (folder / "inventory.json").write_text(inventory.model_dump_json())
        prefix = next(_prefixes)
        self.configs = [
            ControllerConfig(
                cluster=ClusterConfig(
                    name=f"ctl{i}", etcd=tuple(etcd.urls), prefix=prefix, transaction=10_000
                ),
                inventory=folder / "inventory.json",
                listen=Listen(port=port),
                insecure=True,
                intervals=Intervals(health=0.2, repair=0.1, assignment=None),
            )
            for i, port in enumerate(ports[:3])
        ]
        self.pids = [self.start(index) for index in range(3)]

    def start(self, index: int) -> int:
        """Begin a controller's process; call it before there is an event loop, or a thread."""
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(_serve(self.configs[index]))
            finally:
                os._exit(1)
        return pid

    def close(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    async def leader(self, among: Callable[[int], bool] = lambda _: True) -> int:
        """Wait until one of some controllers leads; returns which."""
        async with asyncio.timeout(90), httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
            while True:
                for index, url in enumerate(self.urls):
                    with suppress(httpx.HTTPError):
                        if among(index) and (await client.get(f"{url}/v1/cluster")).json()["leads"]:
                            return index
                await asyncio.sleep(0.02)


async def _serve(config: ControllerConfig) -> None:
    async with running(config):
        await asyncio.Event().wait()


@pytest.fixture
def cluster(tmp_path: Path, etcd: Etcd) -> Iterator[Cluster]:
    made = Cluster(tmp_path, etcd)
    try:
        yield made
    finally:
        made.close()


def spec(weight: int) -> Vip:
    dips = tuple(Dip(address=IPv4Address("100.1.1.1") + i, weight=weight) for i in range(2))
    return Vip(address=VIP, dips=dips)


class Writer:
    """Writes and reads a VIP through all controllers by turns, and keeps the history."""

    def __init__(self, clients: list[ControllerClient]) -> None:
        self.clients = clients
        self.history: list[Operation] = []
        self.values = count(1)

    async def write(self, client: ControllerClient) -> bool:
        value, began = next(self.values) % 100 + 1, time.monotonic()
        ended = math.inf
        try:
            await client.change_vip(spec(value))
            ended = time.monotonic()
        except RestError:
            return False
        finally:
            self.history.append(Operation(True, value, began, ended))
        return True

    async def read(self, client: ControllerClient) -> None:
        began = time.monotonic()
        with suppress(RestError):
            value = (await client.vip(VIP)).spec.dips[0].weight
            self.history.append(Operation(False, value, began, time.monotonic()))

    async def run(self) -> None:
        async def readings(client: ControllerClient) -> None:
            while True:
                await self.read(client)
                await asyncio.sleep(0.02)

        async def writings() -> None:
            while True:
                for client in self.clients:
                    await self.write(client)
                    await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            group.create_task(writings())
            for client in self.clients:
                group.create_task(readings(client))


def test_a_leader_that_dies_or_freezes_is_followed_by_another_and_no_change_is_lost(cluster: Cluster) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            for name, port in cluster.mux_ports.items():
                await stack.enter_async_context(served(cluster.muxes[name], port))
            clients = [await stack.enter_async_context(ControllerClient(url)) for url in cluster.urls]
            hasty = [
                await stack.enter_async_context(ControllerClient(url, timeout_s=2.0)) for url in cluster.urls
            ]
            first = await cluster.leader()
            follower = clients[(first + 1) % 3]
            added = await follower.add_vip(spec(1), "agg1")
            assert added.switch == "agg1"
            assert [(await client.vip(VIP)).spec for client in clients] == [spec(1)] * 3
            writer = Writer(hasty)
            writing = asyncio.create_task(writer.run())
            await asyncio.sleep(0.5)

            killed = time.monotonic()
            os.kill(cluster.pids[first], signal.SIGKILL)
            second = await cluster.leader(lambda index: index != first)
            assert await changed(writer, killed), "nothing is changed after the leader's death"

            frozen_term = await term_of(clients[second])
            os.kill(cluster.pids[second], signal.SIGSTOP)
            frozen = time.monotonic()
            third = await cluster.leader(lambda index: index not in (first, second))
            assert await changed(writer, frozen), "nothing is changed after the leader froze"
            os.kill(cluster.pids[second], signal.SIGCONT)
            assert (await clients[second].vip(VIP)).address == VIP
            # On a busy machine it may be elected again; what it must not do is go on.
            assert await term_of(clients[await cluster.leader()]) > frozen_term, "it leads in its old term"
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            last = 101
            async with asyncio.timeout(90):
                while not await _settles(clients[third], last, cluster):  # noqa: ASYNC110 - others' to tell
                    await asyncio.sleep(0.05)
            history = sorted(writer.history, key=lambda operation: operation.began)
            assert len(history) > 20
            assert is_linearizable(history, 1), "\n".join(map(str, history))

    asyncio.run(main())


async def term_of(client: ControllerClient) -> int:
    """Return the term of the leader that a controller knows."""
    async with asyncio.timeout(90):
        while (leader := (await client.cluster()).leader) is None:  # noqa: ASYNC110 - others' to tell
            await asyncio.sleep(0.02)
    return leader.term


async def changed(writer: Writer, since: float) -> bool:
    """Wait until a change that was asked for after a moment is acknowledged."""
    async with asyncio.timeout(90):
        while not any(  # noqa: ASYNC110 - others' to tell
            op.writes and op.began > since and op.ended < math.inf for op in writer.history
        ):
            await asyncio.sleep(0.02)
    return True


async def _settles(client: ControllerClient, weight: int, cluster: Cluster) -> bool:
    """Change the VIP once more, and see whether all muxes have it so, and one announces it."""
    try:
        await client.change_vip(spec(weight))
        wanted = await client.vip(VIP)
    except RestError:
        return False
    held = [mux.held.get(VIP) for mux in cluster.muxes.values()]
    announcers = [name for name in SWITCHES if VIP in cluster.muxes[name].announced]
    return announcers == ["agg1"] and [entry for entry in held if entry] == [wanted.layout] * 2
