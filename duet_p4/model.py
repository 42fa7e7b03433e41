"""The vocabulary of DUET: DIPs, VIPs, and what a mux is told to do with them.

Two levels:

- `Vip` is the operator's: which DIPs serve a virtual IP.
- `MuxVip` is a mux's: the same VIP with its slot tables spelled out, so that every HMux and SMux
  that is given the same `MuxVip` sends a flow to the same DIP.

The models are frozen, refuse unknown fields, and check themselves: code past the edge need not.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from duet_p4 import slots

MAX_WEIGHT = 255
Port = Annotated[int, Field(ge=1, le=65535)]
FlowKey = Annotated[int, Field(ge=0, le=0xFFFF_FFFF, repr=False)]
"""The secret key of `duet_p4.flow_hash`; 0 is none."""
ANYBODY = IPv4Network("0.0.0.0/0")


class Model(BaseModel):
    """Base of every domain model: immutable, and no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a model from a JSON file. Raises OSError, or ValueError naming the file and what is wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} holds no valid {cls.__name__}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Return what is wrong first, and where, in one line; the value too, unless it is a whole structure."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value = first["input"]
    got = f" (got {value!r})" if isinstance(value, str | int | float) and where else ""
    return (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ") + got


class Protocol(StrEnum):
    """L4 protocols that a port-based VIP can match on."""

    TCP = "tcp"
    UDP = "udp"

    @property
    def number(self) -> int:
        """The IANA protocol number."""
        return {Protocol.TCP: 6, Protocol.UDP: 17}[self]


class Dip(Model):
    """A direct IP: one server behind a VIP.

    `weight` is its share of new flows relative to the other DIPs (WCMP); 0 drains it.
    `host` is the address of the physical host (HIP) in a virtualized cluster: packets are
    tunneled there, and its host agent picks the VM. Stated as a text it is `ADDRESS` or `ADDRESS*WEIGHT`.
    """

    address: IPv4Address
    weight: int = Field(default=1, ge=0, le=MAX_WEIGHT)
    host: IPv4Address | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, stated: Any) -> Any:
        if not isinstance(stated, str):
            return stated
        address, star, weight = stated.partition("*")
        return {"address": address, **({"weight": weight} if star else {})}

    @property
    def encap(self) -> IPv4Address:
        """The outer destination of packets to this DIP."""
        return self.host or self.address


class HealthCheckKind(StrEnum):
    """How a DIP is asked whether it serves; what counts as a good answer says `duet_p4.health.checks`."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    UDP = "udp"
    DNS = "dns"
    GRPC = "grpc"


_OPTIONS_OF = {
    HealthCheckKind.TCP: (),
    HealthCheckKind.HTTP: ("path", "host", "status"),
    HealthCheckKind.HTTPS: ("path", "host", "status"),
    HealthCheckKind.UDP: ("send", "expect"),
    HealthCheckKind.DNS: ("name",),
    HealthCheckKind.GRPC: ("service", "host"),
}


class HealthCheck(Model):
    """How SMuxes and host agents check the DIPs of a VIP; times in milliseconds.

    HTTP and HTTPS ask for `path` of `host` (default: the VIP's address), and want one of the `status` codes,
    as in "200-299,404". UDP sends `send` and wants an answer that contains `expect`. DNS asks for the A
    record of `name`. gRPC asks for the health of `service` (default: the whole server). A DIP that fails gets
    no new flows, and keeps the connections that it has unless `cut` says that they end, too.
    """

    kind: HealthCheckKind = HealthCheckKind.TCP
    port: Port
    path: str = Field(default="/", pattern=r"^/[!-~]*$", max_length=2048)
    host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:_-]{1,255}$")
    status: str = Field(
        default="200-299", pattern=r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*$"
    )
    send: str = Field(default="", max_length=512)
    expect: str = Field(default="", max_length=512)
    name: str = Field(
        default="localhost", pattern=r"^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?$", max_length=253
    )
    service: str = Field(default="", pattern=r"^[A-Za-z0-9._/-]*$", max_length=100)
    interval_ms: int = Field(default=1000, ge=10, le=600_000)
    timeout_ms: int = Field(default=500, ge=1, le=600_000)
    fall: int = Field(default=3, ge=1, le=100)
    rise: int = Field(default=2, ge=1, le=100)
    cut: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        for option in sorted({option for options in _OPTIONS_OF.values() for option in options}):
            stated = getattr(self, option)
            if stated != type(self).model_fields[option].default and option not in _OPTIONS_OF[self.kind]:
                kinds = [kind for kind, options in _OPTIONS_OF.items() if option in options]
                raise ValueError(
                    f"{option} {stated!r} is for a check of kind {' or '.join(kinds)}, not {self.kind}"
                )
        for first, last in self.statuses():
            if first > last:
                raise ValueError(f"status {first}-{last} is no range")
        return self

    @property
    def protocol(self) -> Protocol:
        """The protocol of the port that is asked."""
        return Protocol.UDP if self.kind in (HealthCheckKind.UDP, HealthCheckKind.DNS) else Protocol.TCP

    def statuses(self) -> list[tuple[int, int]]:
        """Return the ranges of HTTP status codes that are wanted, both ends included."""
        ends = [part.partition("-") for part in self.status.split(",")]
        return [(int(first), int(last or first)) for first, _, last in ends]


class PortGroup(Model):
    """DIPs that serve one port of a VIP (the paper's port-based load balancing).

    By `health` they are checked for this group only. One without goes by the VIP's check.
    """

    protocol: Protocol
    port: Port
    dips: tuple[Dip, ...] = Field(min_length=1)
    health: HealthCheck | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_dips(self.dips, f"port {self.name}")
        return self

    @property
    def name(self) -> str:
        """How the group is called: protocol and port."""
        return port_name(self.protocol, self.port)

    @property
    def check(self) -> str:
        """Whose check decides about its DIPs: its own (`name`), or the VIP's."""
        return self.name if self.health else VIP_CHECK


def port_name(protocol: Protocol, port: int) -> str:
    """Return how a port's group is called."""
    return f"{protocol}/{port}"


VIP_CHECK = ""
"""The name of the check that a VIP has for all groups without one of their own."""


class Checked(NamedTuple):
    """A DIP as one of its VIP's checks sees it: the VIP's own, or that of a port's group, by its name."""

    dip: IPv4Address
    check: str = VIP_CHECK

    def __str__(self) -> str:
        """Return DIP and check as `of` reads them."""
        return f"{self.dip}/{self.check}" if self.check else str(self.dip)

    @classmethod
    def of(cls, text: str) -> Checked:
        """Read what `str` gave. Raises ValueError."""
        dip, _, check = text.partition("/")
        return cls(IPv4Address(dip), check)


class Vip(Model):
    """A virtual IP as the operator states it. `health` is for all groups without a check of their own."""

    address: IPv4Address
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    dips: tuple[Dip, ...] = ()
    ports: tuple[PortGroup, ...] = ()
    snat: bool = False
    health: HealthCheck | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        where = f"VIP {self.address}"
        if not self.dips and not self.ports:
            raise ValueError(f"{where} has no DIPs")
        _check_dips(self.dips, where)
        seen: set[tuple[Protocol, int]] = set()
        for group in self.ports:
            key = (group.protocol, group.port)
            if key in seen:
                raise ValueError(f"{where} states port {group.protocol}/{group.port} twice")
            seen.add(key)
        if self.snat and not self.dips:
            raise ValueError(
                f"{where} has DIPs for single ports only, so answers to connections of theirs (SNAT) could "
                "not reach them: give it DIPs for all ports, or leave SNAT out"
            )
        if any(dip.address == self.address for dip in self.all_dips()):
            raise ValueError(f"{where} is its own DIP")
        self._check_checks(where)
        return self

    def _check_checks(self, where: str) -> None:
        """See that a check asks who serves: one that asks nobody would be believed for ever."""
        if self.health is not None and not self.serving(self.health.protocol, self.health.port):
            name = port_name(self.health.protocol, self.health.port)
            raise ValueError(f"{where} is checked on port {name}, which no DIP of it serves")
        for group in self.ports:
            if (what := group.health) is None:
                continue
            asked = {dip.address for dip in self.serving(what.protocol, what.port)}
            for dip in group.dips:
                if dip.address not in asked:
                    raise ValueError(
                        f"{where}: port {group.name} is checked on port "
                        f"{port_name(what.protocol, what.port)}, which its DIP {dip.address} does not serve"
                    )

    def serving(self, protocol: Protocol, port: int) -> tuple[Dip, ...]:
        """Return the DIPs that serve a port: those of its group, or where it has none the VIP's."""
        own = [group.dips for group in self.ports if (group.protocol, group.port) == (protocol, port)]
        return own[0] if own else self.dips

    def by_check(self) -> dict[str, set[IPv4Address]]:
        """Return the DIPs that each check decides about; there are some of the VIP's even if it has none."""
        found = {VIP_CHECK: {dip.address for dip in self.dips}}
        for group in self.ports:
            found.setdefault(group.check, set()).update(dip.address for dip in group.dips)
        return found

    def checks(self) -> dict[str, HealthCheck]:
        """Return the checks that the VIP has, by name."""
        own = {group.name: group.health for group in self.ports if group.health is not None}
        return own | ({VIP_CHECK: self.health} if self.health is not None else {})

    def asked(self) -> dict[str, tuple[Dip, ...]]:
        """Return whom each check asks: a port's all of its group, the VIP's those that serve its port."""
        found = {group.name: group.dips for group in self.ports if group.health is not None}
        if self.health is not None:
            found[VIP_CHECK] = self.serving(self.health.protocol, self.health.port)
        return found

    def all_dips(self) -> list[Dip]:
        """Every DIP of the VIP, those of its ports too, in the order stated; duplicates kept."""
        return [*self.dips, *(dip for group in self.ports for dip in group.dips)]


class Group(Model):
    """An ECMP group: members, and for each slot the index of the member that owns it."""

    members: tuple[Dip, ...] = Field(min_length=1)
    slots: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_dips(self.members, "group", need_weight=False)
        for slot in (min(self.slots), max(self.slots)):
            if not 0 <= slot < len(self.members):
                raise ValueError(f"slot names member {slot}, but there are {len(self.members)} members")
        return self

    @classmethod
    def of(cls, dips: tuple[Dip, ...], slot_count: int | None = None) -> Self:
        """Build a balanced group of `dips`, with `slot_count` slots (default: `slots.default_count`)."""
        weights = [dip.weight for dip in dips]
        return cls(members=dips, slots=tuple(slots.build(weights, slot_count)))

    def member(self, flow_hash: int) -> Dip:
        """Return the member that serves a flow with this hash."""
        return self.members[self.slots[flow_hash % len(self.slots)]]

    def used(self) -> list[Dip]:
        """Members that own at least one slot: what the group costs in the tunneling table."""
        owners = set(self.slots)
        return [dip for index, dip in enumerate(self.members) if index in owners]

    def updated(self, dips: tuple[Dip, ...]) -> Self:
        """Return the group with `dips` as members, moving no slot that need not move.

        A removed DIP's slots go to the rest; an added DIP takes only its share. A group that has outgrown
        its slots gets a multiple of them. One whose number of slots is not usable any more begins afresh.
        """
        if not slots.is_usable(len(self.slots)):
            return type(self).of(dips)
        old = {dip.address: index for index, dip in enumerate(self.members)}
        new = {dip.address: index for index, dip in enumerate(dips)}
        owners = [new.get(self.members[owner].address) for owner in self.slots]
        grown = any(address not in old for address in new) or any(
            dip.address in old and dip.weight != self.members[old[dip.address]].weight for dip in dips
        )
        weights = [dip.weight for dip in dips]
        if grown:
            owners = slots.widened(owners, weights)
        return type(self)(members=dips, slots=tuple(slots.update(owners, weights, rebalance=grown)))


class MuxPortGroup(Model):
    """An ECMP group for one port of a VIP: one ACL table entry."""

    protocol: Protocol
    port: Port
    group: Group
    health: HealthCheck | None = None

    @property
    def name(self) -> str:
        """How the group is called: protocol and port."""
        return port_name(self.protocol, self.port)


class PinnedFlow(Model):
    """A flow that keeps its DIP while the slots around it change."""

    protocol: int = Field(ge=0, le=255)
    source: IPv4Address
    source_port: int = Field(ge=0, le=65535)
    destination_port: int = Field(ge=0, le=65535)
    dip: IPv4Address


class Away(Model):
    """A DIP that is out of service by a check, and has to be asked on: else nobody saw it return."""

    dip: Dip
    check: str = VIP_CHECK


class MuxVip(Model):
    """A VIP as a mux holds it.

    A member of `group` may itself be a TIP. An HMux then tunnels to the TIP, and the HMux that
    carries the TIP picks the DIP; an SMux that knows the TIP picks both at once. By `health`, its own and
    that of its ports, SMuxes check the DIPs, through the tunnel, those that are `away` too.
    """

    address: IPv4Address
    group: Group | None = None
    ports: tuple[MuxPortGroup, ...] = ()
    pinned: tuple[PinnedFlow, ...] = ()
    health: HealthCheck | None = None
    away: tuple[Away, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group is None and not self.ports:
            raise ValueError(f"VIP {self.address} has neither a group nor ports")
        keys: set[tuple[Protocol, int]] = set()
        for group in self.ports:
            key = (group.protocol, group.port)
            if key in keys:
                raise ValueError(f"VIP {self.address} states port {key[0]}/{key[1]} twice")
            keys.add(key)
        known = {dip.address for group in self.groups() for dip in group.members}
        for flow in self.pinned:
            if flow.dip not in known:
                raise ValueError(f"VIP {self.address} pins a flow to {flow.dip}, which is none of its DIPs")
        return self

    @classmethod
    def of(cls, vip: Vip) -> Self:
        """Spell out the slots of an operator's VIP, freshly balanced."""
        return cls(
            address=vip.address,
            group=Group.of(vip.dips) if vip.dips else None,
            ports=tuple(
                MuxPortGroup(protocol=p.protocol, port=p.port, group=Group.of(p.dips)) for p in vip.ports
            ),
        )

    def groups(self) -> list[Group]:
        """Every group of the VIP: the default one first, then those of its ports."""
        return [*([self.group] if self.group else []), *(p.group for p in self.ports)]


class MuxTip(Model):
    """A transient IP as a mux holds it: a share of a large VIP's DIPs, picked with a second hash."""

    address: IPv4Address
    group: Group


def _check_dips(dips: tuple[Dip, ...], where: str, *, need_weight: bool = True) -> None:
    seen: set[IPv4Address] = set()
    for dip in dips:
        if dip.address in seen:
            raise ValueError(f"{where} states DIP {dip.address} twice")
        seen.add(dip.address)
    if need_weight and dips and not any(dip.weight for dip in dips):
        raise ValueError(f"{where}: every DIP has weight 0")


__all__ = [
    "VIP_CHECK",
    "Away",
    "Checked",
    "Dip",
    "Group",
    "HealthCheck",
    "HealthCheckKind",
    "Model",
    "MuxPortGroup",
    "MuxTip",
    "MuxVip",
    "PinnedFlow",
    "PortGroup",
    "Protocol",
    "Vip",
]
