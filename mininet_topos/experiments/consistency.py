"""Connection consistency (beyond the paper): live connections through all that may happen to a VIP.

Ten VIPs of four DIPs, seven on HMuxes and three on SMuxes; beside them one with a group for a port, one of
VMs that share hosts, one that is checked, and one whose DIPs connect out through SNAT. A client has TCP
connections and UDP flows to all of them, and the DIPs of the last have connections to the network outside.
After each event every one is asked who is at its other end. One that was reset, got no answer, or was
answered by another is broken. None should be, save those of a DIP that itself left.

Then the same with as many connections to one VIP of more DIPs than a tunneling table holds, behind TIPs: DIPs
join, so many leave that it needs no TIPs, and join again.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from duet_p4.hmux import pipeline
from duet_p4.model import Dip, HealthCheck, HealthCheckKind, PortGroup, Protocol, Vip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.clients import Client, connected, connected_out, reports
from mininet_topos.experiments.connections import Fate, Outcome
from mininet_topos.experiments.damage import inflicted
from mininet_topos.experiments.flood import flood
from mininet_topos.experiments.setting import Running, Say, running, write
from mininet_topos.experiments.upheavals import (
    await_whole,
    change,
    end,
    fail,
    fail_check,
    migrate,
    restore,
    with_controller,
)

CONNECTIONS = 1000
DIPS = 4
FAILED_SWITCH = "tor4"
FAILED_SMUX = "smux1"
"""The SMux on the client's own ToR, which all of the client's connections to SMux VIPs go through."""

SWITCHES: list[str | None] = [
    "tor3",
    None,
    FAILED_SWITCH,
    "tor1",
    "tor2",
    "agg1",
    "core1",
    "core2",
    None,
    None,
]
MOVED: list[str | None] = [None, "tor3", "agg3"]
_ON_HMUX, _ON_SMUX = 3, 8
"""The VIPs that lose and gain a DIP: one on an HMux, one on the SMuxes."""

_LARGE_VIP = addresses.VIPS[100]
_LARGE_SWITCH = "tor3"
_UDP_SHARE, _SNAT_SHARE = 10, 20
"""One connection of so many."""

_BEHIND_TIPS = {"tips_joined", "tips_left", "tips_back"}
_QUIET_S = 2.0
_FIRST_ADDRESS = 8
"""Of each server's, the first that the VIPs of `Special` have."""
_CHECK = HealthCheck(kind=HealthCheckKind.HTTP, port=80, path="/health", interval_ms=500, timeout_ms=2000)

_LABELS = {
    "none": "nothing happens",
    "dip_removal": "DIP removal",
    "dip_addition": "DIP addition",
    "smux_failure": "SMux failure",
    "smux_return": "SMux return",
    "smux_agents_killed": "SMux agents killed",
    "bird_killed": "a ToR's BIRD killed",
    "check_fails": "a DIP fails its check",
    "check_passes": "it passes again",
    "flood": "50,000 SYNs",
    "two_at_once": "SMux fails, DIPs leave",
    "two_more_at_once": "agents killed, DIPs join",
    "tips_joined": "TIPs: DIPs join",
    "tips_left": "TIPs: not needed",
    "tips_back": "TIPs: needed again",
}


@dataclass(frozen=True)
class Special:
    """VIPs of other kinds than plain, and where they are."""

    ports: Vip
    vms: Vip
    checked: Vip
    snat: Vip

    @classmethod
    def on(cls, servers: list[fattree.Node]) -> Special:
        """Have VIPs of some servers' addresses that no other VIP has."""

        def address(server: int, number: int = 0) -> IPv4Address:
            prefix = servers[server % len(servers)].prefix
            assert prefix is not None
            return prefix[_FIRST_ADDRESS + number]

        def dips(first: int) -> tuple[Dip, ...]:
            return tuple(Dip(address=address(first + n, first // DIPS)) for n in range(DIPS))

        web = PortGroup(protocol=Protocol.TCP, port=80, dips=dips(4))
        vms = [Dip(address=address(n // 2 + 8, n % 2 + 5), host=address(n // 2 + 8, 4)) for n in range(DIPS)]
        vips = [addresses.VIPS[50 + n] for n in range(4)]
        return cls(
            ports=Vip(address=vips[0], dips=dips(0), ports=(web,)),
            vms=Vip(address=vips[1], dips=tuple(vms)),
            checked=Vip(address=vips[2], dips=dips(8), health=_CHECK),
            snat=Vip(address=vips[3], dips=dips(12), snat=True),
        )

    def places(self) -> list[tuple[Vip, str]]:
        """Return the VIPs, and the switch of each."""
        return [(self.ports, "agg2"), (self.vms, "core1"), (self.checked, "agg1"), (self.snat, "tor2")]


def run(name: str, out: Path, say: Say, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Hold `connections` through every event; write samples, summary and figure; return the summary."""
    with running(name, SWITCHES, dips=DIPS, controller=True, say=say) as testbed:
        found, left = measure(testbed, say, connections)
    summary = {
        "connections": connections,
        "kinds": dict(Counter(outcome.kind for outcome in found["none"])),
        "broken": {event: _broken(outcomes, left.get(event, ())) for event, outcomes in found.items()},
        "left_with_their_dip": {event: _left(found[event], dips) for event, dips in left.items()},
        "slowest_ms_p99": {
            event: float(np.quantile(_slowest(outcomes), 0.99)) for event, outcomes in found.items()
        },
        "requests": {event: sum(o.requests for o in outcomes) for event, outcomes in found.items()},
        "target": "xdp",
        "paper": None,
    }
    rows = [{"event": event, **o.model_dump(mode="json")} for event, all_ in found.items() for o in all_]
    write(out, "consistency", summary, rows)
    _plot(out, connections, found, left)
    return summary


Found = dict[str, tuple[Outcome, ...]]
Left = dict[str, Collection[IPv4Address]]
"""By event: what became of every connection, and the DIPs that left."""


def measure(
    testbed: Running, say: Say, connections: int, only: Collection[str] | None = None
) -> tuple[Found, Left]:
    """Hold `connections` through every event, and others to a VIP behind TIPs through its own.

    `only` says which, if it is not to be all.
    """
    found: Found = {}
    left: Left = {}
    servers = [node for node in fattree.nodes(testbed.graph, Kind.SERVER) if node.is_dip]
    special = Special.on([server for server in servers if server.container == 1])
    for vip, switch in special.places():
        _add(testbed, vip, switch)
    await_whole(testbed)

    def go_through(clients: list[Client], events: dict[str, Callable[[], None]]) -> None:
        reports(clients)  # How long opening a thousand took is no event's.
        for event, happen in events.items():
            if only is not None and event not in only:
                continue
            happen()
            found[event] = reports(clients)
            say(f"{event}: {_told(found[event], left.get(event, ()))}")

    with ExitStack() as stack:
        outgoing = max(1, connections // _SNAT_SHARE // DIPS)
        datagrams = connections // _UDP_SHARE
        tcp = connections - datagrams - DIPS * outgoing
        vips = [*testbed.vips, *(vip.address for vip, _ in special.places())]
        clients = [stack.enter_context(connected(testbed, vips, tcp, datagrams=datagrams))]
        by_dip = {d.address: _server_of(servers, d.address) for d in special.snat.dips}
        clients += stack.enter_context(connected_out(testbed, special.snat.address, by_dip, outgoing))
        changed = [testbed.stated[index].vip for index in (_ON_HMUX, _ON_SMUX)]
        first = {vip.dips[0].address for vip in changed}
        left |= {"dip_removal": first, "two_at_once": first}
        go_through(clients, _events(testbed, special, changed))
    if only is not None and not _BEHIND_TIPS & set(only):
        return found, left
    large = Vip(address=_LARGE_VIP, dips=tuple(Dip(address=a) for s in servers for a in s.prefix or ()))
    fan_out = pipeline.sizes()["tunneling_table"]
    fewest = _of_first(large, len(large.dips) - addresses.MAX_BLOCK)
    left["tips_left"] = {dip.address for dip in large.dips[fan_out:]}
    _add(testbed, fewest, _LARGE_SWITCH)
    with connected(testbed, [large.address], connections) as client:
        events: dict[str, Callable[[], None]] = {
            "tips_joined": lambda: change(testbed, [large]),
            "tips_left": lambda: change(testbed, [_of_first(large, fan_out)]),
            "tips_back": lambda: change(testbed, [large]),
        }
        go_through([client], events)
    return found, left


def _events(testbed: Running, special: Special, changed: list[Vip]) -> dict[str, Callable[[], None]]:
    """Return what happens, in order. `changed` are the VIPs that lose their first DIP, and gain it again."""
    fewer = [vip.model_copy(update={"dips": vip.dips[1:]}) for vip in changed]
    checked = special.checked.address, special.checked.dips[0].address
    moved = dict(zip(testbed.vips, MOVED, strict=False))
    home = dict(zip(testbed.vips, SWITCHES[: len(MOVED)], strict=False))
    agents = [switch for switch in dict.fromkeys(SWITCHES) if switch is not None]
    hosts = sorted(_servers(testbed, [special.snat, special.vms, *changed]))

    def kill(name: str, nodes: Collection[str] = (), how: signal.Signals = signal.SIGKILL) -> None:
        end(testbed, name, nodes, how)

    def kill_bird() -> None:
        with inflicted(testbed, "bird"):
            time.sleep(_QUIET_S)
        await_whole(testbed)

    def fail_and_remove() -> None:
        testbed.fail(FAILED_SMUX)
        change(testbed, fewer)
        time.sleep(_QUIET_S)

    def kill_and_add() -> None:
        testbed.restore(FAILED_SMUX)
        await_whole(testbed)
        change(testbed, changed)
        kill("host-agent", hosts)

    return {
        "none": lambda: time.sleep(_QUIET_S),
        "migration": lambda: migrate(testbed, (moved, home)),
        "dip_removal": lambda: change(testbed, fewer),
        "dip_addition": lambda: change(testbed, changed),
        "smux_failure": lambda: fail(testbed, FAILED_SMUX),
        "smux_return": lambda: restore(testbed, FAILED_SMUX),
        "switch_failure": lambda: fail(testbed, FAILED_SWITCH),
        "switch_return": lambda: restore(testbed, FAILED_SWITCH),
        "host_agents_killed": lambda: kill("host-agent", hosts),
        "host_agents_restarted": lambda: kill("host-agent", hosts, signal.SIGTERM),
        "smux_agents_killed": lambda: kill("smux"),
        "switch_agents_killed": lambda: kill("agent", agents),
        "switch_agents_restarted": lambda: kill("agent", agents, signal.SIGTERM),
        "bird_killed": kill_bird,
        "controller_killed": lambda: kill("controller"),
        "check_fails": lambda: fail_check(testbed, *checked, failing=True),
        "check_passes": lambda: fail_check(testbed, *checked, failing=False),
        "flood": lambda: flood(testbed, [*testbed.vips, special.vms.address]),
        "two_at_once": fail_and_remove,
        "two_more_at_once": kill_and_add,
    }


def _add(testbed: Running, vip: Vip, switch: str) -> None:
    with_controller(testbed, lambda controller: controller.add_vip(vip, switch))


def _servers(testbed: Running, vips: Collection[Vip]) -> set[str]:
    """Return the servers that VIPs' DIPs are on."""
    servers = [node for node in fattree.nodes(testbed.graph, Kind.SERVER) if node.is_dip]
    return {_server_of(servers, dip.encap) for vip in vips for dip in vip.all_dips()}


def _server_of(servers: Collection[fattree.Node], dip: IPv4Address) -> str:
    return next(node.name for node in servers if node.prefix is not None and dip in node.prefix)


def _of_first(vip: Vip, count: int) -> Vip:
    return vip.model_copy(update={"dips": vip.dips[:count]})


def _broken(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> int:
    return sum(outcome.fate is not Fate.KEPT and outcome.dip not in left for outcome in outcomes)


def _left(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> int:
    return sum(outcome.fate is not Fate.KEPT and outcome.dip in left for outcome in outcomes)


def _slowest(outcomes: Collection[Outcome]) -> list[float]:
    return [outcome.slowest_ms for outcome in outcomes if outcome.requests]


def _told(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> str:
    fates = Counter(outcome.fate for outcome in outcomes if outcome.dip not in left)
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    return f"{told}; {_left(outcomes, left)} ended with their DIP" if left else told


def _plot(
    out: Path,
    connections: int,
    found: dict[str, tuple[Outcome, ...]],
    left: dict[str, Collection[IPv4Address]],
) -> None:
    figure, (counts, slowest) = results.figure(1, 2, figsize=(10, 7.5), sharey=True)
    at = np.arange(len(found))
    labels = [_LABELS.get(event, event.replace("_", " ")) for event in found]
    broken = np.array([_broken(outcomes, left.get(event, ())) for event, outcomes in found.items()])
    gone = np.array([_left(outcomes, left.get(event, ())) for event, outcomes in found.items()])
    kept = np.array([len(outcomes) for outcomes in found.values()]) - broken - gone
    counts.barh(at, kept, color=results.OURS, label="kept")
    counts.barh(at, gone, left=kept, color=results.GREY, label="its DIP left")
    counts.barh(at, broken, left=kept + gone, color=results.SERIES[3], label="broken")
    for position, number in zip(at, broken, strict=True):
        counts.text(connections * 1.02, position, f"{number} broken", va="center", fontsize=9)
    counts.set(xlabel="connections", xlim=(0, connections * 1.25))
    counts.set_title(f"{connections} live connections and UDP flows")
    counts.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    data = [_slowest(outcomes) for outcomes in found.values()]
    boxes = slowest.boxplot(
        data,
        positions=at,
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=False,
        whis=(0, 99),
    )
    for box in boxes["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    counts.set_yticks(at, labels)
    counts.invert_yaxis()
    slowest.set(xscale="log", xlabel="slowest answer of a connection (ms)")
    slowest.set_title("Box: quartiles; whiskers: fastest and 99%")
    results.save_figure(figure, out / "consistency")
