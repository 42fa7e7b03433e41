"""Which VIPs can be served at all, and how a new one is laid out."""

from __future__ import annotations

from controller.inventory import Inventory
from controller.records import VipRecord
from controller.state import State
from controller.updater.layout import Down, LayoutError, lay_out
from duet_p4.api.problems import InvalidError, UnknownError
from duet_p4.model import Vip


class Admission:
    """Checks what operators ask for against the network.

    `fan_out` is how many DIPs the smallest tunneling table holds; switches without one carry no VIPs.
    """

    def __init__(self, state: State, inventory: Inventory) -> None:
        self._state = state
        self.adopt(inventory)

    def adopt(self, inventory: Inventory) -> None:
        """Go on with another inventory."""
        self._inventory = inventory
        sizes = [switch.tables.tunneling for switch in inventory.switches if switch.tables.tunneling]
        self.fan_out = min(sizes, default=0)

    def check_switch(self, name: str) -> None:
        """Raise `UnknownError` unless a switch has that name."""
        if not self._inventory.has_switch(name):
            names = ", ".join(sorted(switch.name for switch in self._inventory.switches))
            raise UnknownError(f"no switch is called {name!r}; there are {names}")

    def check(self, spec: Vip) -> None:
        """Raise `InvalidError` for what no layout can serve."""
        tips = self.admit(spec).tips
        self._state.release_tips(placed.tip.address for placed in tips)

    def admit(self, spec: Vip) -> VipRecord:
        """Spell a new VIP out. Its TIPs are reserved until it is wanted, or they are released.

        Raises `InvalidError` for what no layout can serve.
        """
        if spec.address not in self._inventory.vip_prefix:
            raise InvalidError(f"VIP {spec.address} is outside the VIP prefix {self._inventory.vip_prefix}")
        for dip in spec.all_dips():
            if not self._inventory.has_host(dip.encap):
                raise InvalidError(f"VIP {spec.address}: no server has the address of DIP {dip.encap}")
            for prefix in (self._inventory.vip_prefix, self._inventory.tip_prefix):
                if dip.address in prefix:
                    raise InvalidError(f"VIP {spec.address}: DIP {dip.address} lies in {prefix}, no server's")
        try:
            return lay_out(
                spec, self.fan_out, self._state.allocate_tip, Down(gone=self._state.out_of_reach(spec))
            )
        except LayoutError as error:
            raise InvalidError(str(error)) from error
