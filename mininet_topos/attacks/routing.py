"""Attacks on routing: neighbours that announce what is not theirs, strangers that want to be neighbours."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP, TCP

from mininet_topos import addresses
from mininet_topos.addresses import Kind
from mininet_topos.attacks.base import Book, Ground, Outcome
from mininet_topos.testbed.agents import Agents

book = Book()
POLICY = "policy by the neighbour's role"
_PATIENCE_S = 10.0
_POLL_S = 0.05


class Bird:
    """A BIRD of the testbed, by its control socket."""

    def __init__(self, ground: Ground, node: str) -> None:
        state = ground.folder.state(node)
        self.socket = state / "bird.ctl"
        own = state / "bird.conf"
        self.config = own if own.exists() else ground.folder.configs / f"{node}.bird.conf"

    def ask(self, command: str) -> str:
        """Return what it answers."""
        done = subprocess.run(
            ["/usr/sbin/birdc", "-r" if command.startswith("show") else "-v", "-s", self.socket, command],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def rejected(self, protocol: str) -> int:
        """Return how many routes of a neighbour it has refused."""
        found = re.search(r"Import updates:\s+\d+\s+\d+\s+(\d+)", self.ask(f"show protocols all {protocol}"))
        return int(found[1]) if found else 0


@contextmanager
def rogue(ground: Ground, node: str, announced: Sequence[str], prepend: int = 0) -> Iterator[None]:
    """Have a node's BIRD announce whatever it likes, to everybody, as who has broken into it would."""
    bird = Bird(ground, node)
    text = bird.config.read_text()
    routes = "".join(f"  route {prefix} blackhole;\n" for prefix in announced)
    text = re.sub(r"(function told_\w+\(prefix p\) \{) return [^}]*\}", r"\1 return true; }", text)
    if prepend:
        text = text.replace(
            "    if source != RTS_BGP then mark_origin();",
            "    if source != RTS_BGP then { mark_origin(); " + "bgp_path.prepend(64999); " * prepend + "}",
        )
    changed = Path(f"{bird.config}.rogue")
    changed.touch(mode=0o600)
    changed.write_text(text + f"protocol static rogue {{\n  ipv4 {{ preference 250; }};\n{routes}}}\n")
    try:
        said = bird.ask(f'configure "{changed}"')
        if "Reconfigured" not in said and "Reconfiguration in progress" not in said:
            raise RuntimeError(f"the rogue {node} does not get its configuration: {said}")
        yield
    finally:
        bird.ask(f'configure "{bird.config}"')
        changed.unlink()


def _hijack(ground: Ground, node: str, victim: str, prefixes: Sequence[str], prepend: int = 0) -> Outcome:
    """Have `node` announce prefixes to its neighbour `victim`; it must take none of them from there."""
    bird, protocol = Bird(ground, victim), f"bgp_{node}"
    before = bird.rejected(protocol)
    with rogue(ground, node, prefixes, prepend):
        deadline = time.monotonic() + _PATIENCE_S
        taken: list[str] = []
        while bird.rejected(protocol) < before + len(prefixes) and not taken:
            taken = [p for p in prefixes if protocol in bird.ask(f"show route {p} primary")]
            if time.monotonic() > deadline:
                raise RuntimeError(f"{victim} has not heard what {node} announces")
            time.sleep(_POLL_S)
        taken = [p for p in prefixes if protocol in bird.ask(f"show route {p} primary")]
        refused = bird.rejected(protocol) - before
    return Outcome(bool(taken), f"{victim} takes {taken or 'none'}, {refused} refused")


@book.add("smux-hijacks-vip", "an SMux announces a VIP's /32, which an HMux carries", POLICY)
def _(ground: Ground) -> Outcome:
    smux = ground.some(Kind.SMUX).name
    return _hijack(ground, smux, ground.link(smux)[1].node, [f"{ground.vip.address}/32"])


@book.add("smux-hijacks-rack", "an SMux announces a rack, and parts of one", POLICY)
def _(ground: Ground) -> Outcome:
    smux = ground.some(Kind.SMUX).name
    return _hijack(ground, smux, ground.link(smux)[1].node, ["100.1.2.0/24", "100.1.2.0/28", "100.1.2.17/32"])


@book.add("smux-hijacks-loopback", "an SMux announces a switch's loopback, and another SMux's", POLICY)
def _(ground: Ground) -> Outcome:
    smux, other = ground.some(Kind.SMUX).name, ground.some(Kind.SMUX, 1)
    stolen = [f"{ground.some(Kind.CORE).loopback}/32", f"{other.loopback}/32"]
    return _hijack(ground, smux, ground.link(smux)[1].node, stolen)


@book.add("outside-hijacks-vip", "the network outside announces a VIP, all VIPs, and halves of them", POLICY)
def _(ground: Ground) -> Outcome:
    stolen = [f"{ground.vip.address}/32", *map(str, addresses.VIPS.subnets(1))]
    return _hijack(ground, "outside", "core1", stolen)


@book.add("outside-hijacks-rack", "the network outside announces racks, loopbacks, links, management", POLICY)
def _(ground: Ground) -> Outcome:
    loopback = ground.some(Kind.TOR).loopback
    stolen = ["100.1.1.0/24", f"{loopback}/32", str(addresses.LINKS), str(addresses.MANAGEMENT)]
    return _hijack(ground, "outside", "core1", stolen)


@book.add("outside-default", "the network outside announces the way to everything", POLICY)
def _(ground: Ground) -> Outcome:
    return _hijack(ground, "outside", "core1", ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"])


@book.add("outside-floods-routes", "the network outside announces thousands of prefixes", "policy and limits")
def _(ground: Ground) -> Outcome:
    count = 500 if ground.small else 10_000
    many = [f"198.51.{n >> 8 & 255}.{n & 255}/32" for n in range(count)]
    bird, before = Bird(ground, "core1"), 0
    before = bird.rejected("bgp_outside")
    with rogue(ground, "outside", many):
        deadline = time.monotonic() + _PATIENCE_S
        while bird.rejected("bgp_outside") < before + count and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        counts = bird.ask("show protocols all bgp_outside")
    found = re.search(r"Routes:\s+(\d+) imported", counts)
    imported = int(found[1]) if found else -1
    return Outcome(imported != 1, f"core1 has {imported} route of it, its own; {count} were refused")


@book.add("tor-hijacks-rack", "a ToR announces another's rack as its own", POLICY)
def _(ground: Ground) -> Outcome:
    tor, victim = ground.some(Kind.TOR), ground.some(Kind.TOR, 1)
    return _hijack(ground, tor.name, "agg1", [str(victim.prefix), "100.9.9.0/24", "100.1.2.17/32"])


@book.add("tor-forges-path", "a ToR announces another's rack, as if it were behind it", "detours are longer")
def _(ground: Ground) -> Outcome:
    """A path that is long enough is taken, but never in place of the straight way."""
    tor, victim = ground.some(Kind.TOR), ground.some(Kind.TOR, 1)
    agg = Bird(ground, "agg1")
    with rogue(ground, tor.name, [str(victim.prefix)], prepend=3):
        deadline = time.monotonic() + _PATIENCE_S
        while f"bgp_{tor.name}" not in (routes := agg.ask(f"show route {victim.prefix} all")):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        best = agg.ask(f"show route {victim.prefix} primary")
    heard = f"bgp_{tor.name}" in routes
    return Outcome(
        f"bgp_{victim.name}" not in best, f"heard of: {heard}; the best way stays {best.split()[-6:]}"
    )


@book.add("bgp-by-stranger", "a client opens a BGP session with its ToR", "the CPU's filter")
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    tor = ground.nodes[ground.link(client.name)[1].node]
    return _connect(ground, client.name, [tor.loopback, ground.link(client.name)[1].address.ip])


@book.add(
    "bgp-without-password", "a process of an SMux's node opens a second session with its ToR", "passwords"
)
def _(ground: Ground) -> Outcome:
    smux = ground.some(Kind.SMUX)
    return _connect(ground, smux.name, [ground.link(smux.name)[1].address.ip])


@book.add("bgp-from-outside", "somebody outside opens a BGP session with a ToR", "the CPU's filter")
def _(ground: Ground) -> Outcome:
    return _connect(ground, "outside", [ground.some(Kind.TOR).loopback])


def _connect(ground: Ground, node: str, targets: Sequence[object]) -> Outcome:
    def connect() -> Outcome:
        said = []
        for target in targets:
            with socket.socket() as client:
                client.settimeout(0.7)
                client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
                try:
                    client.connect((str(target), 179))
                    return Outcome(True, f"{target} has taken a connection")
                except OSError as error:
                    said.append(f"{target}: {error}")
        return Outcome(False, "; ".join(said))

    return ground.inside(node, connect)


@book.add(
    "bgp-ttl", "a client sends BGP with its ToR's neighbour as source, from hops away", "GTSM (RFC 5082)"
)
def _(ground: Ground) -> Outcome:
    """From its own port the source is refused, from another the TTL: none may reach the stack."""
    client = ground.some(Kind.CLIENT)
    own, peer = ground.link("tor1", "agg1")
    before = ground.operate(lambda agents: _bgp_passed(agents, "tor1"))
    forged = IP(src=str(peer.address.ip), dst=str(own.address.ip), ttl=64) / TCP(
        sport=179, dport=40_000, flags="R"
    )
    count = 200
    ground.send(client.name, *[ground.frame(client.name, forged)] * count)
    ground.send("outside", *[ground.frame("outside", forged, "core1")] * count, neighbour="core1")
    sessions = ground.operate(lambda agents: agents.muxes["tor1"].status())
    passed = ground.operate(lambda agents: _bgp_passed(agents, "tor1")) - before
    down = [session.name for session in sessions.sessions if not session.established]
    return Outcome(
        passed >= count or bool(down),
        f"{passed} BGP packets passed meanwhile, of {2 * count} forged; down: {down}",
    )


async def _bgp_passed(agents: Agents, switch: str) -> int:
    from duet_p4.api.ports import Punted

    punted = await agents.muxes[switch].call("GET", "/v1/cpu", list[Punted])
    return sum(one.passed for one in punted if one.kind == "bgp")
