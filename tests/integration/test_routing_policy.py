"""Who may announce what: the matrix of nodes, neighbours and prefixes, as BIRD itself evaluates it."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from duet_p4.bird.config import BirdConfig, Neighbor
from duet_p4.bird.daemon import Bird
from mininet_topos import addresses, fattree
from mininet_topos.testbed import routing
from tests.integration.netns import inside, ip, namespaces
from tests.integration.test_bird import LEFT, RIGHT, ends, has_route, until

__all__ = ["ends"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin"), reason="bird is not installed"
    ),
]

GRAPH = fattree.fattree()
NODES = {node.name: node for node in fattree.nodes(GRAPH)}
PREFIXES = {
    "a VIP": "10.0.0.1/32",
    "all VIPs": "10.0.0.0/16",
    "half of the VIPs": "10.0.128.0/17",
    "a TIP": "20.0.0.1/32",
    "all TIPs": "20.0.0.0/24",
    "rack 1": "100.1.1.0/24",
    "rack 3": "100.2.1.0/24",
    "a server": "100.1.1.17/32",
    "tor1": f"{NODES['tor1'].loopback}/32",
    "agg1": f"{NODES['agg1'].loopback}/32",
    "core1": f"{NODES['core1'].loopback}/32",
    "smux1": f"{NODES['smux1'].loopback}/32",
    "smux2": f"{NODES['smux2'].loopback}/32",
    "the fragment mux": f"{addresses.FRAGMENT_MUX}/32",
    "outside": "192.0.2.0/24",
    "a part of outside": "192.0.2.0/25",
    "everything": "0.0.0.0/0",
    "management": "198.18.0.0/15",
    "a link": "172.31.0.0/31",
    "somebody's": "8.8.8.0/24",
}
VIPS_AND_TIPS = {"a VIP", "all VIPs", "a TIP", "all TIPs", "the fragment mux"}
OURS = VIPS_AND_TIPS | {"rack 1", "rack 3", "tor1", "agg1", "core1", "smux1", "smux2", "outside"}
RACK_1 = {"rack 1", "tor1", "smux1"}

BEHIND = {
    ("tor1", "smux1"): {"all VIPs", "all TIPs", "the fragment mux", "smux1"},
    ("tor1", "agg1"): OURS,
    ("agg1", "tor1"): VIPS_AND_TIPS | RACK_1,
    ("agg1", "tor2"): VIPS_AND_TIPS | {"smux2"},
    ("agg1", "core1"): OURS,
    ("core1", "agg1"): VIPS_AND_TIPS | RACK_1 | {"agg1", "smux2"},
    ("core1", "agg3"): VIPS_AND_TIPS | {"rack 3"},
    ("core1", "outside"): {"outside"},
    ("smux1", "tor1"): OURS,
    ("outside", "core1"): {"a VIP", "all VIPs"},
}
"""What a node takes from a neighbour, by the straight way."""

ELSEWHERE = {"rack 1", "rack 3", "tor1", "agg1", "core1", "smux1", "smux2", "the fragment mux"}
BEYOND = {("agg1", "tor1"): ELSEWHERE, ("agg1", "tor2"): ELSEWHERE, ("core1", "agg1"): ELSEWHERE}
BEYOND |= {("core1", "agg3"): ELSEWHERE}
"""What it takes by a detour."""

TOLD = dict.fromkeys(BEHIND, OURS) | {("core1", "outside"): {"a VIP", "all VIPs"}}
TOLD |= {("outside", "core1"): OURS}


async def evaluated(bird: Bird, function: str) -> set[str]:
    """Return which prefixes a function of BIRD's configuration allows."""
    found = set()
    for name, prefix in PREFIXES.items():
        (answer,) = await bird.query(f"eval {function}({prefix})")
        if answer == "TRUE":
            found.add(name)
    return found


def test_every_neighbour_may_announce_and_is_told_what_its_role_says(tmp_path: Path) -> None:
    keys = routing.passwords(GRAPH)
    wrong: list[str] = []

    async def ask(name: str, pairs: Sequence[tuple[str, str]]) -> None:
        folder = tmp_path / name
        folder.mkdir()
        bird = Bird(routing.bird_of(GRAPH, NODES[name], keys), folder)
        await bird.start()
        try:
            protocols = {neighbor.name: neighbor.protocol for neighbor in bird.config.neighbors}
            for pair in pairs:
                for what, table in (("behind", BEHIND), ("beyond", BEYOND), ("told", TOLD)):
                    found = await evaluated(bird, f"{what}_{protocols[pair[1]]}")
                    expected = table.get(pair, set())
                    if what == "told" and pair == ("outside", "core1"):
                        expected = OURS
                    if found != expected:
                        wrong.append(f"{what} {pair}: {sorted(found ^ expected)}")
        finally:
            await bird.stop()

    async def run() -> None:
        for name in sorted({own for own, _ in BEHIND}):
            await ask(name, [pair for pair in BEHIND if pair[0] == name])

    with namespaces("bgp") as (namespace,), inside(namespace):
        ip("link set lo up", namespace)
        asyncio.run(run())
    assert not wrong, "\n".join(wrong)


def test_a_rogue_smux_hijacks_nothing_and_a_draining_one_is_preferred_to_nothing(
    ends: list[str], tmp_path: Path
) -> None:
    """Two real BIRDs: tor1 as it is, and an SMux whose configuration says nothing of policies."""
    node, keys = NODES["tor1"], routing.passwords(GRAPH)
    whole = routing.bird_of(GRAPH, node, keys)
    (known,) = [one for one in whole.neighbors if one.name == "smux1"]
    here = {"interface": "eth0", "local": LEFT, "address": RIGHT}
    tor = whole.model_copy(update={"neighbors": (known.model_copy(update=here),)})
    stolen = ["10.0.0.1/32", "10.0.0.0/17", "100.1.1.0/24", f"{NODES['core1'].loopback}/32", "192.0.2.0/24"]
    own = ["10.0.0.0/16", f"{NODES['smux1'].loopback}/32"]
    rogue = BirdConfig(
        router_id=NODES["smux1"].address,
        asn=known.asn,
        neighbors=(
            Neighbor(
                name="tor1", interface="eth0", local=RIGHT, address=LEFT, asn=tor.asn, password=known.password
            ),
        ),
        space=tuple(routing.PrefixRange.exactly(IPv4Network(prefix)) for prefix in stolen + own),
        originated=tuple(IPv4Network(prefix) for prefix in stolen + own),
        origins=routing.ORIGINS,
    )

    async def run() -> None:
        birds = []
        for name, config, namespace in (("tor", tor, ends[0]), ("smux", rogue, ends[1])):
            (tmp_path / name).mkdir()
            bird = Bird(config, tmp_path / name)
            with inside(namespace):
                await bird.start()
            birds.append(bird)
        try:
            await until(has_route("10.0.0.0/16", ends[0]), "the SMux's covering prefix")
            taken = {route.prefix for route in await birds[0].routes() if route.protocol == "bgp_smux1"}
            assert taken == {IPv4Network(prefix) for prefix in own}
            shown = "\n".join(await birds[0].query("show route all 10.0.0.0/16"))
            assert "BGP.community: (64900,1)" in shown and "BGP.local_pref: 100" in shown, shown

            with inside(ends[1]):
                await birds[1].reconfigure(rogue.model_copy(update={"draining": True}))

            async def least() -> bool:
                shown = "\n".join(await birds[0].query("show route all 10.0.0.0/16"))
                return "(65535,0)" in shown and "BGP.local_pref: 0" in shown

            await until(least, "the SMux's wish to be preferred to nothing")

            wrong = rogue.neighbors[0].model_copy(update={"password": "not-the-one".replace("-", "")})
            with inside(ends[1]):
                await birds[1].reconfigure(rogue.model_copy(update={"neighbors": (wrong,)}))

            async def gone() -> bool:
                return not any(session.established for session in await birds[0].sessions())

            await until(gone, "the end of a session without the password", timeout_s=20)
            await asyncio.sleep(2.5)  # longer than BIRD waits before it tries again
            assert await gone()
        finally:
            for bird in birds:
                await bird.stop()

    asyncio.run(run())
