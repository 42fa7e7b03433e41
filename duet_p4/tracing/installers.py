"""Who has put the entries there that a traced packet has hit: an agent knows, its data path does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from duet_p4.api.installed import Installed
from duet_p4.api.trace import PacketTrace, Step

InstalledBy = Callable[[IPv4Address], Installed | None]
"""Who has put a VIP or TIP on a device, None for an address that is none there."""

MUX_TABLES: Mapping[str, str | None] = {"services": "vip_addr", "pinned": "vip_addr", "slots": None}
"""Tables of an SMux or server that hold VIPs: the field with the address, None for the last one."""
SWITCH_TABLES: Mapping[str, str | None] = {
    "host_table": "dst_addr",
    "acl_table": "dst_addr",
    "pinned_flow_table": "dst_addr",
    "ecmp_table": None,
    "tunneling_table": None,
}
"""The same of hmux.p4."""


class Installers:
    """Says of each hit who is behind it; what is no VIP's is `others`'."""

    def __init__(
        self, installed: InstalledBy, tables: Mapping[str, str | None], others: str | None = None
    ) -> None:
        self._installed = installed
        self._tables = tables
        self._others = others

    def __call__(self, trace: PacketTrace) -> PacketTrace:
        """Return the trace with what is known."""
        steps: list[Step] = []
        last: tuple[IPv4Address, Installed] | None = None
        for step in trace.steps:
            if step.kind != "table" or not step.hit:
                steps.append(step)
                continue
            name = step.name.rpartition(".")[2]
            found: Installed | None = None
            if name in self._tables:
                last = self._owner(step, self._tables[name]) or last
                if last is not None:
                    address, origin = last
                    found = Installed(at=origin.at, by=f"{origin.by}, for {address}" if origin.by else None)
            elif self._others is not None:
                found = Installed(by=self._others)
            known = step.installed.at if step.installed else None
            if known is not None:
                found = Installed(at=known, by=found.by if found else None)
            steps.append(step.model_copy(update={"installed": found}))
        return trace.model_copy(update={"steps": tuple(steps)})

    def _owner(self, step: Step, field: str | None) -> tuple[IPv4Address, Installed] | None:
        for key in step.key:
            if key.field == field:
                address = IPv4Address(int(key.value, 16))
                installed = self._installed(address)
                return (address, installed) if installed else None
        return None
