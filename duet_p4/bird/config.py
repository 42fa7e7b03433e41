"""bird.conf, written whole from a model: eBGP in the manner of RFC 7938.

Routes travel like this:

- BGP -> `master4` -> the kernel's FIB, equal paths merged into one multipath route.
- The kernel table of announcements -> `announced` -> `master4` -> BGP. An agent announces a prefix by
  adding a route to that kernel table, and withdraws it by deleting the route.
- Prefixes of the node itself (loopback, server subnets) are static routes, always announced.

Only prefixes inside the data centre's own address space are accepted or announced, and of these each
neighbour may announce what its policy says (`policy`). Sessions take no packet that came through a router
(GTSM, RFC 5082), and where they have a password, none without it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from duet_p4.bird.policy import GRACEFUL_SHUTDOWN, ORIGIN_AS, Origin, Policy, PrefixRange, functions, ranges
from duet_p4.model import Model

Asn = Annotated[int, Field(ge=1, le=4_294_967_294)]
Milliseconds = Annotated[int, Field(ge=10, le=60_000)]


class Bfd(Model):
    """BFD timers: a neighbour silent for `interval_ms` x `multiplier` is down.

    Links that lose carrier are noticed at once without BFD; it is for neighbours that go silent, and that
    nothing else asks whether they forward (`switch_agent.echo` asks switches). It watches BIRD more than the
    neighbour: one that is killed, or too busy, is taken for silent.
    """

    interval_ms: Milliseconds = 500
    multiplier: int = Field(default=6, ge=2, le=50)


class Timers(Model):
    """BGP timers in seconds, short enough that a fabric converges within a few seconds of its start."""

    connect_delay: int = Field(default=1, ge=1)
    connect_retry: int = Field(default=1, ge=1)
    error_wait_min: int = Field(default=1, ge=1)
    error_wait_max: int = Field(default=4, ge=1)
    hold: int = Field(default=9, ge=3)
    keepalive: int = Field(default=3, ge=1)


class Restart(Model):
    """Graceful restart (RFC 4724): a BIRD that is killed takes no routes with it.

    Its neighbours keep its routes for `time` seconds, in which a new one must have begun; that one leaves the
    kernel's routes as they are until all neighbours have told theirs, for `wait` seconds at most. A session
    that ends in any other way, or with its link, takes its routes with it at once. Both are long enough for a
    busy machine: until all sessions are there again takes a few waits of `Timers`.
    """

    time: int = Field(default=20, ge=1, le=4095)
    wait: int = Field(default=15, ge=1)


class Neighbor(Model):
    """An eBGP neighbour at the other end of a link.

    With `bfd` on both sides, one that is silent is given up; where `patient`, its routes stay for as long as
    a restart of its BIRD may take. Where this end is `passive`, it is for the neighbour to connect: else both
    do, their connections collide, and what was given up for the other is begun anew after a wait.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")
    interface: str = Field(pattern=r"^[^\s\"/]{1,15}$")
    local: IPv4Address
    address: IPv4Address
    asn: Asn
    bfd: bool = True
    patient: bool = False
    passive: bool = False
    policy: Policy = Policy()
    password: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]{8,80}$", repr=False)

    @property
    def protocol(self) -> str:
        """The name of the neighbour's protocol in BIRD."""
        return "bgp_" + "".join(c if c.isalnum() else "_" for c in self.name)


class BirdConfig(Model):
    """A node's routing.

    `transit` nodes (switches) pass on what they learn; others (SMuxes) announce their own prefixes
    only. What a node with a `preferred_source` sends itself over learned routes has that source.
    `allow_own_as` is how often the own AS may occur in a path that is accepted: a Core needs 1 to
    reach what another Core of the same AS announces. Prefixes in `anycast` are refused with the own AS all
    the same: others announce them too, and a route that goes away must leave no detour to hunt for. What the
    node originates carries the community of its kind in `origins`. A node that is `draining` asks its
    neighbours to prefer anything else (RFC 8326). One whose data path dies with its BIRD has no `restart`.
    """

    router_id: IPv4Address
    asn: Asn
    neighbors: tuple[Neighbor, ...]
    space: tuple[PrefixRange, ...] = Field(min_length=1)
    originated: tuple[IPv4Network, ...] = ()
    transit: bool = True
    allow_own_as: int = Field(default=0, ge=0, le=4)
    anycast: tuple[PrefixRange, ...] = ()
    origins: tuple[Origin, ...] = ()
    draining: bool = False
    preferred_source: IPv4Address | None = None
    fib_table: int = Field(default=254, ge=1)
    announce_table: int = Field(default=100, ge=1)
    max_paths: int = Field(default=16, ge=1, le=64)
    bfd: Bfd = Bfd()
    restart: Restart | None = Restart()
    timers: Timers = Timers()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fib_table == self.announce_table:
            raise ValueError(f"kernel table {self.fib_table} cannot hold both the FIB and the announcements")
        for what in ("name", "protocol", "address"):
            seen: set[object] = set()
            for neighbor in self.neighbors:
                value = getattr(neighbor, what)
                if value in seen:
                    raise ValueError(f"two BGP neighbours have the {what} {value}")
                seen.add(value)
        for prefix in self.originated:
            if not any(allowed.covers(prefix) for allowed in self.space):
                raise ValueError(f"{prefix} is originated, but outside of the address space")
        return self


def render(config: BirdConfig, log: Path) -> str:
    """Return the text of bird.conf; BIRD will log to the file `log`."""
    timers, restart = config.timers, config.restart
    sections = [
        _lines(
            f'log "{log}" {{ info, remote, warning, error, auth, fatal, bug, trace }};',
            f"router id {config.router_id};",
            *([f"graceful restart wait {restart.wait};"] if restart else []),
            "debug protocols { states };",
            f"define SPACE = [ {ranges(config.space)} ];",
            "ipv4 table announced;",
        ),
        _block("function mark_origin()", *(_mark(origin) for origin in config.origins)),
        _lines(*(line for n in config.neighbors for line in functions(n.protocol, n.policy))),
        _block("protocol device", "scan time 60;"),
        _block(
            "protocol bfd",
            f'interface "*" {{ interval {config.bfd.interval_ms} ms; multiplier {config.bfd.multiplier}; }};',
        ),
        _block(
            "protocol kernel fib",
            f"kernel table {config.fib_table};",
            f"graceful restart {'on' if restart else 'off'};",
            f"merge paths on limit {config.max_paths};",
            "scan time 60;",
            "ipv4 {",
            "  import none;",
            "  export filter {",
            "    if source != RTS_BGP then reject;",
            *([f"    krt_prefsrc = {config.preferred_source};"] if config.preferred_source else []),
            "    accept;",
            "  };",
            "};",
        ),
        _block(
            "protocol kernel announcements",
            f"kernel table {config.announce_table};",
            "learn;",
            "scan time 60;",
            # Above BGP's 100: what this node announces beats what it hears, or migration would deadlock.
            "ipv4 { table announced; preference 200; import all; export none; };",
        ),
        _block(
            "protocol pipe announcing",
            "table announced;",
            "peer table master4;",
            "import none;",
            "export all;",
        ),
        _block(
            "protocol static own", "ipv4;", *(f"route {prefix} blackhole;" for prefix in config.originated)
        ),
        _block(
            "template bgp fabric",
            f"local as {config.asn};",
            "direct;",
            "check link yes;",
            f"allow local as {config.allow_own_as};",
            f"connect delay time {timers.connect_delay};",
            f"connect retry time {timers.connect_retry};",
            f"error wait time {timers.error_wait_min}, {timers.error_wait_max};",
            f"hold time {timers.hold};",
            f"startup hold time {timers.hold};",
            f"keepalive time {timers.keepalive};",
            *(["graceful restart on;", f"graceful restart time {restart.time};"] if restart else []),
            "ttl security on;",
        ),
        *(_neighbor(config, neighbor) for neighbor in config.neighbors),
    ]
    return "\n".join(sections)


def _mark(origin: Origin) -> str:
    return f"if net ~ [ {ranges(origin.ranges)} ] then bgp_community.add(({ORIGIN_AS}, {origin.value}));"


def _neighbor(config: BirdConfig, neighbor: Neighbor) -> str:
    policy, name = neighbor.policy, neighbor.protocol
    taken = f"behind_{name}(net)"
    if policy.beyond:
        taken += f" || (beyond_{name}(net) && bgp_path.len >= {policy.beyond_hops})"
    strange = ["    bgp_community.delete([(64900, *), (65535, *)]);"] if policy.foreign else []
    detour = f"net ~ [ {ranges(config.anycast)} ] && bgp_path ~ [= * {config.asn} * =]"
    return _block(
        f"protocol bgp {name} from fabric",
        f'description "{neighbor.name}";',
        f"neighbor {neighbor.address} as {neighbor.asn};",
        f"source address {neighbor.local};",
        f'interface "{neighbor.interface}";',
        f"bfd {('graceful' if neighbor.patient else 'on') if neighbor.bfd else 'off'};",
        *(["passive yes;"] if neighbor.passive else []),
        *([f'password "{neighbor.password}";'] if neighbor.password else []),
        "ipv4 {",
        "  import filter {",
        f"    if !({taken}) then reject;",
        *([f"    if {detour} then reject;"] if config.allow_own_as and config.anycast else []),
        *strange,
        f"    if {GRACEFUL_SHUTDOWN} ~ bgp_community then bgp_local_pref = 0;",
        "    accept;",
        "  };",
        f"  import limit {policy.limit} action block;",
        "  export filter {",
        f"    if !told_{name}(net) then reject;",
        *([] if config.transit else ["    if source = RTS_BGP then reject;"]),
        "    if source != RTS_BGP then mark_origin();",
        *strange,
        *([f"    bgp_community.add({GRACEFUL_SHUTDOWN});"] if config.draining else []),
        "    accept;",
        "  };",
        "  next hop self;",
        "};",
    )


def _block(head: str, *body: str) -> str:
    return _lines(f"{head} {{", *(f"  {line}" for line in body), "}")


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
